"""Evaluation: what is measured, and what the probe has of its own beside a published way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ikem.config.checks import (
    require,
    require_at_least,
    require_not_negative,
    require_one_of,
    require_positive,
    require_share,
    require_shares,
)
from ikem.config.preset import with_options
from ikem.config.probe import PROBES, ProbeConfig


@dataclass
class EvaluateConfig:
    """Linear probe, nearest neighbors and controls on frozen features.

    Attributes:
        preset: how the linear probe learns, as in a published code: ``crosclr`` (CrosSCLR, AimCLR, IKEM), ``cmd`` or
            ``mamp``. Each of the options from ``epochs`` to ``rotate_degrees`` replaces what the preset says.
        epochs: of the linear probe.
        learning_rate: of its SGD with momentum 0.9.
        schedule: ``step`` multiplies the learning rate by 0.1 at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        weight_decay: L2 penalty on its weights.
        batch_size: of the probe.
        batch_norm: normalize features over each batch, with no weights of its own, before the classifier.
        least_window: in every epoch another part of each training clip, at least this share of it, is stretched to its
            full length, and the middle 95 % of test clips are seen; 1 for all of every clip. The encoder then encodes
            the training clips in every epoch.
        rotate_degrees: in every epoch training clips are turned about each axis by up to this angle.
        neighbors: how many nearest training clips by cosine decide; with 1 this is the field's retrieval protocol.
        early: shares of the test clips; the linear probe is also tested on beginnings of these lengths alone, such as
            [0.1, 0.2, 0.5, 1.0] (early prediction).
        semi: shares of the training clips that count as labelled, such as [0.01, 0.05, 0.1, 0.2] (semi-supervised).
        fewshot: how many clips of each class count as labelled, such as [1, 2, 5, 10] (few-shot).
        draws: how often labelled clips are drawn for either.
        draw_by: shares are of each ``class`` (AimCLR's way), or of all clips, ``clip`` by clip (MAMP's way).
        every_class: a share holds at least one clip of each class.
        classes: names or labels of the classes that are evaluated, such as those held out from pretraining; by default
            all.
        fusion: by which weights separately trained streams are fused, beside equal ones: ``learned`` on the training
            clips, by cross-fitting; ``aimclr``, the fixed ones of AimCLR's code for joint, motion and bone.
        normalize: scale the features that each modality has of a clip to length 1, first of all.
        standardize: scale every feature to mean 0 and deviation 1 over the training clips, before probe and neighbors.
        segments: S; a second probe, logistic regression for each modality, sees the features of every joint apart,
            averaged over each of S equal parts of time; fused, their probabilities are averaged. Meant for small
            datasets; 0 for none.
        logistic_c: inverse strength of its L2 penalty.
        subjects: measure, too, how well features tell whose clip it is: a logistic regression names the subjects of
            training clips from actions that it has not seen of them.
        parts_dtype: ``float32``, or ``float16`` for half the memory, of the features of joints and parts of time, which
            are kept in a mapped file.
    """

    preset: Literal["crosclr", "cmd", "mamp"] = "crosclr"
    epochs: int | None = None
    learning_rate: float | None = None
    schedule: Literal["step", "cosine"] | None = None
    milestones: tuple[int, ...] | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    batch_norm: bool | None = None
    least_window: float | None = None
    rotate_degrees: float | None = None
    neighbors: tuple[int, ...] = (1, 20)
    early: tuple[float, ...] = ()
    semi: tuple[float, ...] = ()
    fewshot: tuple[int, ...] = ()
    draws: int = 5
    draw_by: Literal["class", "clip"] = "class"
    every_class: bool = True
    classes: tuple[str, ...] = ()
    fusion: tuple[Literal["learned", "aimclr"], ...] = ()
    normalize: bool = False
    standardize: bool = False
    segments: int = 0
    logistic_c: float = 200.0
    subjects: bool = False
    parts_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        require(self.preset in PROBES, f"evaluate.preset: expected one of {', '.join(PROBES)}, got {self.preset}")
        probe = self.probe
        for name in ("epochs", "batch_size"):
            require_at_least(f"evaluate.{name}", getattr(probe, name), 1)
        require_positive("evaluate.learning_rate", probe.learning_rate)
        require_share("evaluate.least_window", probe.least_window)
        require_not_negative("evaluate.weight_decay", probe.weight_decay)
        require_not_negative("evaluate.rotate_degrees", probe.rotate_degrees)
        require(
            all(k >= 1 for k in self.neighbors) and len(set(self.neighbors)) == len(self.neighbors),
            f"evaluate.neighbors: expected different numbers of at least 1, got {list(self.neighbors)}",
        )
        require(
            all(0 < share <= 1 for share in self.early),
            f"evaluate.early: expected shares in (0, 1], got {list(self.early)}",
        )
        require_shares("evaluate.semi", self.semi)
        require(
            all(shots >= 1 for shots in self.fewshot) and len(set(self.fewshot)) == len(self.fewshot),
            f"evaluate.fewshot: expected different numbers of at least 1, got {list(self.fewshot)}",
        )
        require_at_least("evaluate.draws", self.draws, 1)
        require_one_of("evaluate.draw_by", self.draw_by, ("class", "clip"))
        require(
            set(self.fusion) <= {"learned", "aimclr"},
            f"evaluate.fusion: expected some of learned, aimclr, got {', '.join(self.fusion)}",
        )
        require_one_of("evaluate.parts_dtype", self.parts_dtype, ("float32", "float16"))
        require_at_least("evaluate.segments", self.segments, 0)
        require_positive("evaluate.logistic_c", self.logistic_c)

    @property
    def probe(self) -> ProbeConfig:
        """The preset, with what the other options replace of it.

        Example:
            >>> EvaluateConfig(preset="cmd", epochs=10).probe.epochs, EvaluateConfig(preset="cmd").probe.epochs
            (10, 80)
        """
        return with_options(PROBES, self)
