"""From joints to probabilities: trained encoders and their heads in one module and one file, and how a clip is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from ikem.checkpoint import DESCRIPTION, export_modules, read_modules
from ikem.config import EncoderConfig, Modality
from ikem.data.dataset import PreparedDataset
from ikem.data.formats import RawClip
from ikem.data.recipe import Recipe
from ikem.encoders import Encoder, build_encoder
from ikem_ext import SkeletonLayout, derive_modalities

__all__ = [
    "CLASSIFIER",
    "ActionClassifier",
    "Classifier",
    "Fusion",
    "Guess",
    "keep_classifier",
    "load_classifier",
    "save_classifier",
]

CLASSIFIER = "classifier.safetensors"  # in the folder of a run, or of a finetuning

FusionKind = Literal["logits", "pool"]


class Classifier(nn.Module):
    """The network of one modality: an encoder and a linear head on its features.

    Args:
        encoder: maps (N, 3, T, V, M) to features (N, F).
        num_classes: L.
        normalize: the head sees features of length 1.
    """

    def __init__(self, encoder: Encoder, num_classes: int, normalize: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalize = normalize
        self.head = nn.Linear(encoder.feature_width, num_classes)
        nn.init.normal_(self.head.weight, 0.0, 0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map skeletons (N, 3, T, V, M) to logits (N, L)."""
        features = self.encoder(x)
        return cast(Tensor, self.head(functional.normalize(features, dim=-1) if self.normalize else features))


@dataclass(frozen=True)
class Fusion:
    """How the logits of G modalities become the probabilities of L classes.

    Args:
        kind: ``logits`` adds them; ``pool`` adds the logarithms of the modalities' own probabilities, as
            ``ikem.evaluation.fusion.pool`` does.
        weights: of the modalities, (G,).
        doubt: share of a uniform distribution in each modality's probabilities, for ``pool``.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
        >>> Fusion("logits", (0.5, 0.5))(logits).argmax(-1)
        tensor([0])
    """

    kind: FusionKind
    weights: tuple[float, ...]
    doubt: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))  # JSON gives a list
        if self.kind not in get_args(FusionKind):
            raise ValueError(f"kind: expected one of {', '.join(get_args(FusionKind))}, got {self.kind!r}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits (G, N, L) to probabilities (N, L)."""
        if self.kind == "pool":
            sure = logits.softmax(-1).clamp_min(torch.finfo(torch.float32).tiny)
            logits = torch.log((1 - self.doubt) * sure + self.doubt / logits.shape[-1])
        weights = torch.tensor(self.weights, dtype=logits.dtype, device=logits.device)
        return (weights[:, None, None] * logits).sum(0).softmax(-1)


class Guess(NamedTuple):
    """What a clip shows, as the classifier sees it.

    Attributes:
        name: of the class.
        probability: of it.
    """

    name: str
    probability: float


class ActionClassifier(nn.Module):
    """Names the action that joints show: derives modalities, encodes each, and fuses what their heads say.

    Args:
        streams: G classifiers by modality.
        encoder_config: of their encoders.
        classes: the names of the L classes.
        recipe: how recordings become clips.
        fusion: how the streams are fused; by default the mean of their logits.
        origin: where it comes from, of JSON's own types.

    Attributes:
        streams: G classifiers by modality.
        classes: the names of the classes.
        recipe: how recordings become clips.
        fusion: how the streams are fused.
        origin: where it comes from.

    Example:
        >>> from ikem.data.bodies import BodySelection
        >>> from ikem.data.preprocess import Preprocessing
        >>> from ikem_ext import get_layout
        >>> steps = Preprocessing(frames=16, bodies=1, center="frame", align="none", lost_frames="interpolate")
        >>> config, layout = EncoderConfig(base_width=4, feature_width=16), get_layout("ntu25")
        >>> streams = {name: Classifier(build_encoder(config, layout), 2) for name in ("joint", "motion")}
        >>> recipe = Recipe(layout, steps, BodySelection(bodies=1))
        >>> classifier = ActionClassifier(streams, config, ["wave", "sit down"], recipe).eval()
        >>> classifier(torch.randn(5, 3, 16, 25, 1), torch.full((5,), 40)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        streams: Mapping[str, Classifier],
        encoder_config: EncoderConfig,
        classes: Sequence[str],
        recipe: Recipe,
        fusion: Fusion | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(dict(streams))
        self.encoder_config = encoder_config
        self.classes = list(classes)
        self.recipe = recipe
        self.fusion = fusion or Fusion("logits", (1 / len(streams),) * len(streams))
        self.origin = dict(origin or {})
        if len(self.fusion.weights) != len(streams):
            raise ValueError(f"fusion: expected {len(streams)} weights, one a modality, got {len(self.fusion.weights)}")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The G modalities, in their order."""
        return cast("tuple[Modality, ...]", tuple(self.streams))

    @property
    def layout(self) -> SkeletonLayout:
        """The skeleton of the clips."""
        return self.recipe.layout

    @property
    def frames(self) -> int:
        """T, to which every clip is resized."""
        return self.recipe.preprocessing.frames

    @property
    def bodies(self) -> int:
        """M, the bodies of a clip."""
        return self.recipe.preprocessing.bodies

    def forward(self, joints: Tensor, num_frames: Tensor) -> Tensor:
        """Map clips (N, 3, T, V, M) and the lengths (N,) that they had when recorded to probabilities (N, L)."""
        derived = self.derive(joints, num_frames)
        logits = [stream(part) for stream, part in zip(self.streams.values(), derived, strict=True)]
        return self.fusion(torch.stack(logits).float())

    def derive(self, joints: Tensor, num_frames: Tensor) -> Tensor:
        """Derive what the streams see of clips (N, 3, T, V, M): (G, N, 3, T, V, M)."""
        return derive_modalities(joints, num_frames, self.layout, modalities=self.modalities)

    def embed(self, joints: Tensor, num_frames: Tensor) -> Tensor:
        """Map clips (N, 3, T, V, M) and their lengths (N,) to the features of each modality, (N, G, F)."""
        derived = self.derive(joints, num_frames)
        streams = [cast(Classifier, stream) for stream in self.streams.values()]
        return torch.stack([stream.encoder(part) for stream, part in zip(streams, derived, strict=True)], 1)

    def prepare(self, clips: Sequence[RawClip], recorded: SkeletonLayout) -> tuple[Tensor, Tensor]:
        """Make what :meth:`forward` takes, (N, 3, T, V, M) and (N,), of recordings.

        Raises:
            ValueError: a recording is damaged or of a skeleton that does not fit, or no body is seen in it.
        """
        made = [self.recipe(clip, recorded) for clip in clips]
        joints = torch.from_numpy(np.stack([each.joints for each in made]))
        return joints, torch.tensor([each.num_frames for each in made])

    def guesses(self, probabilities: Tensor, top: int = 5) -> list[list[Guess]]:
        """Return the likeliest classes of each clip, from probabilities (N, L).

        Example:
            See :class:`ActionClassifier`; ``classifier.guesses(classifier(joints, num_frames))``.
        """
        values, places = probabilities.topk(min(top, len(self.classes)), -1)
        return [
            [Guess(self.classes[place], value) for value, place in zip(*row, strict=True)]
            for row in zip(values.tolist(), places.tolist(), strict=True)
        ]


def save_classifier(path: Path, classifier: ActionClassifier) -> None:
    """Write a classifier as safetensors: all weights, and in the metadata what else :func:`load_classifier` needs."""
    export_modules(
        path,
        dict(classifier.streams.items()),
        classifier.encoder_config,
        classifier.layout,
        classes=classifier.classes,
        recipe=classifier.recipe.to_dict(),
        fusion=asdict(classifier.fusion),
        normalize=[name for name, stream in classifier.streams.items() if cast(Classifier, stream).normalize],
        origin=classifier.origin,
    )


def keep_classifier(path: Path, dataset: PreparedDataset, make: Callable[[Recipe], ActionClassifier]) -> None:
    """Write the classifier that is made with a data set's recipe, and how long the clips were.

    Where the recipe is not known, print so instead.
    """
    try:
        recipe = Recipe.of(dataset)
    except ValueError as error:
        path.unlink(missing_ok=True)  # of an earlier training
        print(f"no {path.name} is written: {error}")
        return
    classifier = make(recipe)
    shortest, median, longest = np.quantile(dataset.num_frames, (0, 0.5, 1)).round().astype(int).tolist()
    classifier.origin["num_frames"] = {"shortest": shortest, "median": median, "longest": longest}
    save_classifier(path, classifier)


def load_classifier(path: Path | str) -> ActionClassifier:
    """Load a classifier in eval mode.

    Args:
        path: what :func:`save_classifier` wrote, or a folder that holds it as ``classifier.safetensors``.

    Raises:
        ValueError: there is none, it is damaged, or its weights do not fit or are not finite.
    """
    path = _file_of(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(DESCRIPTION, "{}"))
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} {_NO_HEAD} ({error})") from error
    if missing := sorted({"classes", "recipe", "fusion"} - set(metadata)):
        raise ValueError(f"checkpoint: {path} {_NO_HEAD} (it has no {', '.join(missing)})")
    description, weights = read_modules(path)
    recipe, config = Recipe.from_dict(description["recipe"]), EncoderConfig(**description["encoder"])
    classes = list(description["classes"])
    normalize = description.get("normalize", [])  # which files of earlier versions do not say
    streams = {
        name: Classifier(build_encoder(config, recipe.layout), len(classes), name in normalize) for name in weights
    }
    try:
        for modality, state in weights.items():
            streams[modality].load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"checkpoint: {path} does not fit: {error}") from error
    fusion, origin = Fusion(**description["fusion"]), description.get("origin", {})
    return ActionClassifier(streams, config, classes, recipe, fusion, origin).eval()


_NO_HEAD = "is no classifier: expected the classifier.safetensors that `ikem evaluate` or `ikem finetune` writes"


def _file_of(path: Path) -> Path:
    file = path / CLASSIFIER if path.is_dir() else path
    if not file.is_file():
        more = "; `ikem evaluate` or `ikem finetune` writes it" if path.is_dir() else ""
        raise ValueError(f"checkpoint: there is no {file}{more}")
    return file
