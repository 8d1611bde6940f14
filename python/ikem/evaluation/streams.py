"""What is scored: modalities alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ikem.config import THREE_STREAMS


@dataclass(frozen=True)
class Streams:
    """What is scored: single modalities, modalities fused in training, and separately trained ones fused late.

    Attributes:
        trained: name -> positions of the modalities whose heads are trained together, on their averaged logits.
        late: name -> positions of the modalities whose separately trained heads' probabilities are averaged.
    """

    trained: dict[str, tuple[int, ...]]
    late: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, modalities: Sequence[str]) -> Streams:
        """Return the streams of an ordered list of modalities.

        Example:
            >>> list(Streams.of(["joint", "motion"]).trained)
            ['joint', 'motion', 'fused2']
        """
        fused = {f"fused{len(modalities)}": tuple(range(len(modalities)))} if len(modalities) > 1 else {}
        if set(THREE_STREAMS) < set(modalities):
            fused["fused3"] = tuple(modalities.index(modality) for modality in THREE_STREAMS)
        fused = dict(sorted(fused.items()))
        singles = {modality: (position,) for position, modality in enumerate(modalities)}
        return cls({**singles, **fused}, {f"late_{name}": members for name, members in fused.items()})

    @property
    def modalities(self) -> tuple[str, ...]:
        """The G modalities, in their order."""
        return tuple(name for name, members in self.trained.items() if len(members) == 1)

    @property
    def fused(self) -> dict[str, tuple[int, ...]]:
        """The streams of several modalities, by name."""
        return {name: members for name, members in self.trained.items() if len(members) > 1}

    @property
    def together(self) -> str:
        """The name of the stream of all modalities."""
        return max(self.trained, key=lambda name: len(self.trained[name]))

    @property
    def singles(self) -> Streams:
        """The modalities alone."""
        return Streams({name: self.trained[name] for name in self.modalities}, {})

    @property
    def all(self) -> dict[str, tuple[int, ...]]:
        """All streams, by name."""
        return {**self.trained, **self.late}
