"""The configuration of a run: nested dataclasses, filled from YAML files and the command line.

The defaults are the published settings for NTU RGB+D (Wei et al., arXiv 2309.12009, implementation details).
Every dataclass checks itself when it is made, so that a wrong value is refused before any work starts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ikem.config.files import find_config as find_config
from ikem.config.files import named_configs as named_configs
from ikem.config.files import read_config as read_config
from ikem.files import write_text
from ikem_ext import MODALITIES

Modality = Literal["joint", "motion", "bone", "acceleration", "rotation_axis", "angular_velocity"]

THREE_STREAMS: tuple[Modality, ...] = ("joint", "motion", "bone")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass
class DataConfig:
    """Which recordings, and how they come.

    Attributes:
        folder: a prepared dataset, as `ikem prepare` writes it; for pretraining and distillation also a list of
            several, of one skeleton, number of frames and number of bodies.
        protocol: one of the dataset's protocols; its training part is used for learning, the others for testing. Of a
            list, one that all have, or ``all``: all clips train.
        batch_size: clips per step, over all processes together. An incomplete last batch of an epoch is left out.
        workers: processes that load batches ahead of time; 0 loads in the training process.
    """

    folder: tuple[Path, ...] | Path = Path("data/ntu60")
    protocol: str = "xsub"
    batch_size: int = 128
    workers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, Path):
            self.folder = tuple(map(Path, self.folder))
            _require(len(self.folder) > 0, "data.folder: expected a prepared dataset or a list of some, got none")
        _require(self.batch_size >= 2, f"data.batch_size: expected at least 2, got {self.batch_size}")
        _require(self.workers >= 0, f"data.workers: expected at least 0, got {self.workers}")

    @property
    def folders(self) -> str:
        """The folder or folders, for messages."""
        return str(self.folder) if isinstance(self.folder, Path) else " + ".join(map(str, self.folder))

    @property
    def one_folder(self) -> Path:
        """The folder, where labels are used.

        Raises:
            ValueError: if there are several.
        """
        if isinstance(self.folder, Path):
            return self.folder
        raise ValueError(
            "data.folder: expected one prepared dataset where labels are used or a report is made, got a list of "
            f"{len(self.folder)}; name one by --data.folder"
        )


@dataclass
class ViewsConfig:
    """The random views of a clip.

    Attributes:
        shear_amplitude: off-diagonal entries of the shear are uniform in [-amplitude, amplitude].
        crop_ratio: T // crop_ratio frames are mirrored on at each end before T frames are cropped; 0 for no crop.
        turn_degrees: clips are turned about the vertical axis by up to this angle.
        tilt_degrees: and about the horizontal axis across the view by up to this one.
        bone_jitter: the length of each bone is multiplied by exp(bone_jitter * n), n normal.
        least_window: a part of the clip, at least this share of it, is stretched to its full length; 1 for all of it.
        mirror_probability: how often left and right change places: x is negated, and each joint takes the place of its
            partner in ``layout.left_right``.
        speed: the clip is played faster by a factor that is uniform in [least, most], about its middle: frame t shows
            what was at c + factor * (t - c), c = (T - 1) / 2, linearly interpolated and mirrored at the clip's ends.
        speed_probability: how often.
        scale: all coordinates are multiplied by a factor that is uniform in [least, most].
        scale_probability: how often.
        jitter: deviation of the normal noise that is added to each coordinate in each frame, in the data's units.
        jitter_probability: how often.
        mask_joints: share of the joints that are set to 0 in all frames; round(share * V) of them.
        mask_joints_probability: how often.
        mask_frames: share of the frames in which all joints are set to 0; round(share * T) of them.
        mask_frames_probability: how often.
    """

    shear_amplitude: float = 0.5
    crop_ratio: int = 6
    turn_degrees: float = 0.0
    tilt_degrees: float = 0.0
    bone_jitter: float = 0.0
    least_window: float = 1.0
    mirror_probability: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    speed_probability: float = 1.0
    scale: tuple[float, float] = (1.0, 1.0)
    scale_probability: float = 1.0
    jitter: float = 0.0
    jitter_probability: float = 1.0
    mask_joints: float = 0.0
    mask_joints_probability: float = 1.0
    mask_frames: float = 0.0
    mask_frames_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("shear_amplitude", "crop_ratio", "turn_degrees", "tilt_degrees", "bone_jitter", "jitter"):
            _require(getattr(self, name) >= 0, f"views.{name}: expected >= 0, got {getattr(self, name)}")
        _require(0 < self.least_window <= 1, f"views.least_window: expected in (0, 1], got {self.least_window}")
        for name in ("speed", "scale"):
            least, most = getattr(self, name)
            _require(0 < least <= most, f"views.{name}: expected 0 < least <= most, got {[least, most]}")
            setattr(self, name, (least, most))
        for name in ("mirror", "speed", "scale", "jitter", "mask_joints", "mask_frames"):
            share = getattr(self, f"{name}_probability")
            _require(0 <= share <= 1, f"views.{name}_probability: expected in [0, 1], got {share}")
        for name in ("mask_joints", "mask_frames"):
            _require(0 <= getattr(self, name) < 1, f"views.{name}: expected in [0, 1), got {getattr(self, name)}")


@dataclass
class EncoderConfig:
    """The encoder of one modality.

    Attributes:
        architecture: ``st_gcn``, the method's; ``agcn``, one stream of 2s-AGCN; ``ctrgcn``, CTR-GCN; or
            ``hcn``, HCN, for which joints are channels.
        base_width: channels of the first blocks (of ``hcn``, a quarter of conv1's); a multiple of 4 for ``agcn``, of 8
            for ``ctrgcn``.
        feature_width: channels of the last block, the width of the features unless ``pooling`` says otherwise; likewise
            a multiple.
        dropout: probability.
        initialization: of encoders and heads: ``published``, N(0, 0.02); or ``kaiming``.
        pooling: what of the last block's output are the features that heads and probes see: ``mean``, over time and
            joints; ``joints``, the means over time of every joint, V times as wide; or ``parts``, those of both arms,
            both legs and the trunk (of a hand: fingers and palm), 5 (6) times as wide. ``hcn`` knows ``mean`` alone,
            over time, base_width / 8 times as wide.
    """

    architecture: Literal["st_gcn", "agcn", "ctrgcn", "hcn"] = "st_gcn"
    base_width: int = 16
    feature_width: int = 256
    dropout: float = 0.5
    initialization: Literal["published", "kaiming"] = "published"
    pooling: Literal["mean", "joints", "parts"] = "mean"

    def __post_init__(self) -> None:
        multiples = {"st_gcn": 1, "agcn": 4, "ctrgcn": 8, "hcn": 1}
        _require(
            self.architecture in multiples,
            f"encoder.architecture: expected one of {', '.join(multiples)}, got {self.architecture}",
        )
        multiple = multiples[self.architecture]
        for name in ("base_width", "feature_width"):
            width = getattr(self, name)
            _require(
                width >= 1 and width % multiple == 0,
                f"encoder.{name}: expected a positive multiple of {multiple} for {self.architecture}, got {width}",
            )
        _require(0 <= self.dropout < 1, f"encoder.dropout: expected in [0, 1), got {self.dropout}")
        _require(
            self.pooling in ("mean", "joints", "parts"),
            f"encoder.pooling: expected mean, joints or parts, got {self.pooling}",
        )
        _require(
            self.architecture != "hcn" or self.pooling == "mean",
            f"encoder.pooling: expected mean for hcn, whose maps have no joints, got {self.pooling}",
        )


@dataclass
class ScheduleConfig:
    """The course of stochastic gradient descent, shared by all trainings.

    Attributes:
        epochs: length of training. A run may be given more, finished or not, where that changes no epoch that has
            begun: the constant parts of ``step`` allow it, ``cosine`` does not. So may the schedule's later milestones.
        schedule: ``step`` multiplies the learning rate by ``decay`` at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        decay: factor, for ``step``.
        warmup_epochs: the learning rate rises linearly over these first epochs.
        sgd_momentum: of the optimizer.
        weight_decay: L2 penalty of the optimizer.
    """

    epochs: int = 300
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (250,)
    decay: float = 0.1
    warmup_epochs: int = 0
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        self._require_at_least_1("epochs")

    @property
    def _section(self) -> str:
        return type(self).__name__.removesuffix("Config").lower()

    def _require_at_least_1(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            _require(value >= 1, f"{self._section}.{name}: expected at least 1, got {value}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            _require(value > 0, f"{self._section}.{name}: expected > 0, got {value}")

    @property
    def exchanges(self) -> bool:
        """Whether the training has a stage 2."""
        return False

    def stage(self, epoch: int) -> int:
        """Return the part of the training, from 1, that an epoch belongs to."""
        return 1


@dataclass
class OptimizationConfig(ScheduleConfig):
    """Contrastive learning with queues, shared by pretraining and distillation.

    Attributes:
        optimizer: ``sgd``, with momentum; or ``adamw``, whose weight decay spares biases and norms, and which wants a
            learning rate of its own, such as 1e-3.
        learning_rate: peak learning rate.
        queue_length: embeddings kept as negatives, per modality.
        temperature: of the softmax over similarities.
        topk: how many of a queue's most similar entries count as positives in another modality.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    queue_length: int = 32768
    temperature: float = 0.07
    topk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.optimizer in ("sgd", "adamw"),
            f"{self._section}.optimizer: expected sgd or adamw, got {self.optimizer}",
        )
        self._require_at_least_1("queue_length", "topk")
        self._require_positive("learning_rate", "temperature")
        _require(self.topk <= self.queue_length, f"{self._section}.topk: expected <= queue_length, got {self.topk}")


@dataclass
class PretrainConfig(OptimizationConfig):
    """Momentum contrast per modality (stage 1), then exchange of knowledge between modalities (stage 2).

    With ``explicit`` and ``implicit`` off, this is MoCo for each modality; with ``implicit`` off, CrosSCLR's exchange.

    Attributes:
        modalities: the streams that are trained.
        exchange_epoch: the first epoch of stage 2.
        explicit: in stage 2, learn from the other modalities' nearest neighbors (else the loss of stage 1 goes on).
        implicit: in stage 2, learn from the six modalities' joint embedding, through the exchange head.
        context: in the explicit exchange, contrast with products of two modalities' similarities as well.
        key_momentum: of the key encoders.
        exchange_momentum_modalities: in stage 2 only these key encoders, of those that are trained, go on following.
        embedding_width: C.
        mask_own_clip: entries of the queue that come from a query's own clip, seen in an earlier epoch, are no
            negatives of it. In the explicit exchange the entries of all clips of the step's batch are left out for all
            its queries, as neighbors too.
        same_subject_weight: what the exponentials of negatives of the query's own subject are multiplied by.
        other_subject_weight: and those of other subjects; 0 restricts the negatives to the own one. Neither is defined
            for the explicit exchange.
    """

    modalities: tuple[Modality, ...] = MODALITIES  # type: ignore[assignment]
    exchange_epoch: int = 150
    explicit: bool = True
    implicit: bool = True
    context: bool = True
    key_momentum: float = 0.999
    exchange_momentum_modalities: tuple[Modality, ...] = ("motion", "acceleration", "angular_velocity")
    embedding_width: int = 128
    mask_own_clip: bool = False
    same_subject_weight: float = 1.0
    other_subject_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("same_subject_weight", "other_subject_weight"):
            weight = getattr(self, name)
            _require(0 <= weight < math.inf, f"pretrain.{name}: expected a finite number >= 0, got {weight}")
            _require(
                weight == 1 or not (self.exchanges and self.explicit),
                f"pretrain.{name}: expected 1 with a stage 2 that has pretrain.explicit, whose products of "
                f"similarities have no weights, got {weight}",
            )
        _require(
            self.same_subject_weight + self.other_subject_weight > 0,
            "pretrain.same_subject_weight: expected > 0 with pretrain.other_subject_weight 0, got 0",
        )
        self.modalities = _checked_modalities("pretrain.modalities", self.modalities)
        _require(0 <= self.key_momentum <= 1, f"pretrain.key_momentum: expected in [0, 1], got {self.key_momentum}")
        _require(
            len(self.modalities) > 1 or not self.exchanges,
            "pretrain.modalities: an exchange needs at least two; with one, set pretrain.explicit and "
            "pretrain.implicit to false",
        )

    @property
    def weighs_subjects(self) -> bool:
        """Whether it matters to negatives whose they are."""
        return (self.same_subject_weight, self.other_subject_weight) != (1, 1)

    @property
    def exchanges(self) -> bool:
        """Whether the run has a stage 2."""
        return (self.explicit or self.implicit) and self.exchange_epoch < self.epochs

    @property
    def stage1_epochs(self) -> int:
        """How many epochs each modality learns alone."""
        return self.exchange_epoch if self.exchanges else self.epochs

    def stage(self, epoch: int) -> int:
        """Return 1 while each modality learns alone, 2 once they exchange."""
        return 2 if self.exchanges and epoch >= self.exchange_epoch else 1


@dataclass
class DistillConfig(OptimizationConfig):
    """Relational distillation of the frozen, pretrained streams into a student of fewer modalities.

    Attributes:
        modalities: the student's streams.
        teacher: checkpoint of pretraining; by default the last one of this run.
    """

    epochs: int = 150
    milestones: tuple[int, ...] = (125,)
    modalities: tuple[Modality, ...] = THREE_STREAMS
    teacher: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.modalities = _checked_modalities("distill.modalities", self.modalities)


@dataclass
class LearningConfig(ScheduleConfig):
    """How encoders and heads learn from labels.

    Attributes:
        optimizer: ``sgd``, with momentum; or ``adamw``, whose weight decay spares biases and norms.
        nesterov: Nesterov's momentum, for ``sgd``.
        encoder_learning_rate: peak learning rate of the encoders.
        head_learning_rate: peak learning rate of the heads.
        layer_decay: of pretrained encoders block b of B learns at ``layer_decay ** (B + 1 - b)`` times their learning
            rate, and the norm of the coordinates as a block 0.
        label_smoothing: this share of a clip's label is spread over all classes.
        batch_size: clips per step, over all processes together; None for `data.batch_size`.
        pretraining_views: clips are seen by the random views of pretraining, the `views` section.
        least_window: without these, in every step another part of each clip, at least this share of it and 64 frames,
            is stretched to its full length, and of test clips the middle 95 % is seen; 1 for all of every clip.
        rotate_degrees: without these, clips are turned about each axis by up to this angle.
    """

    epochs: int = 100
    milestones: tuple[int, ...] = (80,)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = False
    encoder_learning_rate: float = 0.1
    head_learning_rate: float = 0.1
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    batch_size: int | None = None
    pretraining_views: bool = True
    least_window: float = 1.0
    rotate_degrees: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("encoder_learning_rate", "head_learning_rate")
        _require(self.optimizer in ("sgd", "adamw"), f"finetune.optimizer: expected sgd or adamw, got {self.optimizer}")
        _require(
            not self.nesterov or (self.optimizer == "sgd" and self.sgd_momentum > 0),
            "finetune.nesterov: expected finetune.optimizer sgd and finetune.sgd_momentum > 0 with it",
        )
        _require(0 < self.layer_decay <= 1, f"finetune.layer_decay: expected in (0, 1], got {self.layer_decay}")
        _require(
            0 <= self.label_smoothing < 1, f"finetune.label_smoothing: expected in [0, 1), got {self.label_smoothing}"
        )
        _require(
            self.batch_size is None or self.batch_size >= 2,
            f"finetune.batch_size: expected at least 2, got {self.batch_size}",
        )
        _require(0 < self.least_window <= 1, f"finetune.least_window: expected in (0, 1], got {self.least_window}")
        _require(self.rotate_degrees >= 0, f"finetune.rotate_degrees: expected >= 0, got {self.rotate_degrees}")
        _require(
            not self.pretraining_views or (self.least_window == 1 and self.rotate_degrees == 0),
            "finetune.least_window, finetune.rotate_degrees: expected finetune.pretraining_views false with them; the "
            "views of pretraining have windows and turns of their own",
        )

    @property
    def _section(self) -> str:
        return "finetune"

    @property
    def augments(self) -> bool:
        """Whether clips are cut and turned as by a probe that augments, and test clips are seen by their middle."""
        return self.least_window < 1 or self.rotate_degrees > 0


#: How published codes finetune, by name (docs/evaluation.md says where they come from), and this project's own way.
LEARNING = {
    "default": LearningConfig(),
    "aimclr": LearningConfig(80, milestones=(10, 30, 50), nesterov=True, batch_size=128, pretraining_views=False),
    "hiclr": LearningConfig(
        70, milestones=(30, 55), warmup_epochs=5, nesterov=True, batch_size=64, pretraining_views=False
    ),
    "cmd": LearningConfig(
        80,
        milestones=(50, 70),
        weight_decay=0.0,
        encoder_learning_rate=0.01,
        head_learning_rate=0.01,
        batch_size=64,
        pretraining_views=False,
        least_window=0.5,
    ),
    "mamp": LearningConfig(
        100,
        schedule="cosine",
        warmup_epochs=5,
        weight_decay=0.05,
        optimizer="adamw",
        encoder_learning_rate=3e-4,
        head_learning_rate=3e-4,
        layer_decay=0.8,
        label_smoothing=0.1,
        batch_size=48,
        pretraining_views=False,
        least_window=0.5,
        rotate_degrees=17.2,  # 0.3 rad
    ),
}


@dataclass
class FinetuneConfig:
    """Supervised training of whole encoders, each with a new linear head, from pretrained or from random weights.

    Attributes:
        preset: how they learn: ``default``, or as in a published code: ``aimclr`` (AimCLR, ActCLR), ``hiclr``, ``cmd``
            or ``mamp``. Each of the options from ``epochs`` to ``rotate_degrees`` replaces what the preset says.
        init: ``pretrained``; ``random``: the supervised baseline; or ``both``, one after the other.
        checkpoint: of the pretrained encoders, whatever `ikem evaluate --checkpoint` takes; by default the last one of
            this run's pretraining.
        modalities: whose encoders are trained, each with a loss of its own.
        semi: shares of the training labels, such as [0.01, 0.05, 0.1, 0.2]; one finetuning for each of them and each
            draw (semi-supervised). Of 1.0, all labels, there is one.
        draws: how often the labels of each share in ``semi`` are drawn.
        labels: share of the training labels of a single finetuning.
        draw: number of its draw, where ``labels`` is less than 1. The clips of a share are among those of a larger one.
        draw_by: shares are of each ``class`` (AimCLR's way), or of all clips, ``clip`` by clip (MAMP's way).
        every_class: a share holds at least one clip of each class.
        epochs: length of training.
        schedule: ``step`` multiplies the learning rate by ``decay`` at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        decay: factor, for ``step``.
        warmup_epochs: the learning rate rises linearly over these first epochs.
        optimizer: ``sgd``, or ``adamw``, whose weight decay spares biases and norms.
        sgd_momentum: of ``sgd``.
        nesterov: Nesterov's momentum, for ``sgd``.
        weight_decay: L2 penalty of ``sgd``; of ``adamw`` its own.
        encoder_learning_rate: peak learning rate of the encoders.
        head_learning_rate: peak learning rate of the heads.
        layer_decay: of pretrained encoders each block learns at this fraction of the learning rate of the one after it.
        label_smoothing: this share of a clip's label is spread over all classes.
        batch_size: clips per step, over all processes together; by default `data.batch_size`.
        pretraining_views: clips are seen by the random views of pretraining, the `views` section.
        least_window: without these, another part of each clip, at least this share of it and 64 frames, is stretched to
            its full length in every step, and the middle 95 % of test clips are seen; 1 for all of every clip.
        rotate_degrees: without these, clips are turned about each axis by up to this angle.
    """

    preset: Literal["default", "aimclr", "hiclr", "cmd", "mamp"] = "default"
    init: Literal["pretrained", "random", "both"] = "pretrained"
    checkpoint: Path | None = None
    modalities: tuple[Modality, ...] = THREE_STREAMS
    semi: tuple[float, ...] = ()
    draws: int = 5
    labels: float = 1.0
    draw: int = 0
    draw_by: Literal["class", "clip"] = "class"
    every_class: bool = True
    epochs: int | None = None
    schedule: Literal["step", "cosine"] | None = None
    milestones: tuple[int, ...] | None = None
    decay: float | None = None
    warmup_epochs: int | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    sgd_momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    encoder_learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None
    label_smoothing: float | None = None
    batch_size: int | None = None
    pretraining_views: bool | None = None
    least_window: float | None = None
    rotate_degrees: float | None = None

    def __post_init__(self) -> None:
        _require(self.preset in LEARNING, f"finetune.preset: expected one of {', '.join(LEARNING)}, got {self.preset}")
        _require(
            self.init in ("pretrained", "random", "both"),
            f"finetune.init: expected pretrained, random or both, got {self.init}",
        )
        _require(
            self.init != "random" or self.checkpoint is None,
            "finetune.checkpoint: expected none with finetune.init random, which begins with random weights",
        )
        self.modalities = _checked_modalities("finetune.modalities", self.modalities)
        _require(
            all(0 < share <= 1 for share in self.semi) and len(set(self.semi)) == len(self.semi),
            f"finetune.semi: expected different shares in (0, 1], got {list(self.semi)}",
        )
        _require(self.draws >= 1, f"finetune.draws: expected at least 1, got {self.draws}")
        _require(0 < self.labels <= 1, f"finetune.labels: expected in (0, 1], got {self.labels}")
        _require(self.draw >= 0, f"finetune.draw: expected at least 0, got {self.draw}")
        _require(
            not self.semi or (self.labels == 1 and self.draw == 0),
            "finetune.semi: expected none with finetune.labels or finetune.draw, which are of a single finetuning",
        )
        _require(self.draw_by in ("class", "clip"), f"finetune.draw_by: expected class or clip, got {self.draw_by}")
        _ = self.learning  # checks what it is made of

    @property
    def learning(self) -> LearningConfig:
        """The preset, with what the other options replace of it.

        Example:
            >>> FinetuneConfig(preset="mamp", epochs=10).learning.epochs, FinetuneConfig(preset="mamp").learning.epochs
            (10, 100)
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(LearningConfig)}
        return dataclasses.replace(
            LEARNING[self.preset], **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def name(self) -> str:
        """What tells it from other finetunings of a run.

        Example:
            >>> FinetuneConfig(init="random").name, FinetuneConfig(labels=0.05, draw=3).name
            ('random', 'pretrained-0.05-3')
        """
        return self.init if self.labels == 1 else f"{self.init}-{self.labels:g}-{self.draw}"


@dataclass(frozen=True)
class ProbeConfig:
    """How the linear probe learns: SGD with momentum 0.9 on the features of frozen encoders.

    Attributes:
        epochs: length of training.
        learning_rate: peak learning rate.
        schedule: ``step`` multiplies the learning rate by 0.1 at each milestone; ``cosine`` takes it to 0.
        milestones: epochs, for ``step``.
        weight_decay: L2 penalty on the weights.
        batch_size: clips per step. With ``batch_norm`` a last batch of one clip is left out.
        batch_norm: features are normalized over each batch, with no weights of its own, before the classifier.
        least_window: in every epoch another part of each training clip, at least this share of it and 64 frames, is
            stretched to its full length; of test clips the middle 95 % are seen. 1 for all of every clip.
        rotate_degrees: in every epoch training clips are turned about each axis by up to this angle.
    """

    epochs: int
    learning_rate: float
    schedule: Literal["step", "cosine"]
    milestones: tuple[int, ...]
    weight_decay: float
    batch_size: int
    batch_norm: bool
    least_window: float
    rotate_degrees: float

    @property
    def augments(self) -> bool:
        """Whether the training clips look different in every epoch, so that features are extracted in each."""
        return self.least_window < 1 or self.rotate_degrees > 0

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate at a point of time, counted in epochs.

        Example:
            >>> probe = PROBES["crosclr"]
            >>> probe.learning_rate_at(79.9), round(probe.learning_rate_at(80), 3)
            (3.0, 0.3)
        """
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


#: The linear probes of published codes, by name (docs/evaluation.md says where they come from).
PROBES = {
    "crosclr": ProbeConfig(100, 3.0, "step", (80,), 0.0, 128, False, 1.0, 0.0),
    "cmd": ProbeConfig(80, 0.1, "step", (50, 70), 0.0, 64, False, 0.5, 0.0),
    "mamp": ProbeConfig(100, 0.1, "cosine", (), 0.0, 256, True, 0.5, 17.2),  # 0.3 rad
}


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
        standardize: scale every feature to mean 0 and deviation 1 over the training clips, before probe and neighbors.
        segments: S; a second probe, logistic regression for each modality, sees the features of every joint apart,
            averaged over each of S equal parts of time; fused, their probabilities are averaged. Meant for small
            datasets; 0 for none.
        logistic_c: inverse strength of its L2 penalty.
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
    standardize: bool = False
    segments: int = 0
    logistic_c: float = 200.0
    parts_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.preset in PROBES, f"evaluate.preset: expected one of {', '.join(PROBES)}, got {self.preset}")
        probe = self.probe
        for name in ("epochs", "batch_size"):
            _require(getattr(probe, name) >= 1, f"evaluate.{name}: expected at least 1, got {getattr(probe, name)}")
        _require(probe.learning_rate > 0, f"evaluate.learning_rate: expected > 0, got {probe.learning_rate}")
        _require(0 < probe.least_window <= 1, f"evaluate.least_window: expected in (0, 1], got {probe.least_window}")
        _require(probe.rotate_degrees >= 0, f"evaluate.rotate_degrees: expected >= 0, got {probe.rotate_degrees}")
        _require(
            all(k >= 1 for k in self.neighbors) and len(set(self.neighbors)) == len(self.neighbors),
            f"evaluate.neighbors: expected different numbers of at least 1, got {list(self.neighbors)}",
        )
        _require(
            all(0 < share <= 1 for share in self.early),
            f"evaluate.early: expected shares in (0, 1], got {list(self.early)}",
        )
        _require(
            all(0 < share <= 1 for share in self.semi) and len(set(self.semi)) == len(self.semi),
            f"evaluate.semi: expected different shares in (0, 1], got {list(self.semi)}",
        )
        _require(
            all(shots >= 1 for shots in self.fewshot) and len(set(self.fewshot)) == len(self.fewshot),
            f"evaluate.fewshot: expected different numbers of at least 1, got {list(self.fewshot)}",
        )
        _require(self.draws >= 1, f"evaluate.draws: expected at least 1, got {self.draws}")
        _require(self.draw_by in ("class", "clip"), f"evaluate.draw_by: expected class or clip, got {self.draw_by}")
        _require(
            set(self.fusion) <= {"learned", "aimclr"},
            f"evaluate.fusion: expected some of learned, aimclr, got {', '.join(self.fusion)}",
        )
        _require(
            self.parts_dtype in ("float32", "float16"),
            f"evaluate.parts_dtype: expected float32 or float16, got {self.parts_dtype}",
        )
        _require(self.segments >= 0, f"evaluate.segments: expected at least 0, got {self.segments}")
        _require(self.logistic_c > 0, f"evaluate.logistic_c: expected > 0, got {self.logistic_c}")

    @property
    def probe(self) -> ProbeConfig:
        """The preset, with what the other options replace of it.

        Example:
            >>> EvaluateConfig(preset="cmd", epochs=10).probe.epochs, EvaluateConfig(preset="cmd").probe.epochs
            (10, 80)
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(ProbeConfig)}
        return dataclasses.replace(
            PROBES[self.preset], **{name: value for name, value in given.items() if value is not None}
        )


@dataclass
class TrainerConfig:
    """Where and how the training runs; nothing here changes what is computed, but for rounding.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``gpu``, ...: as Lightning's Trainer takes it.
        devices: number of devices (processes on a CPU).
        precision: as Lightning's Trainer takes it: ``32-true``, ``bf16-mixed``, ``16-mixed``, ...
        accuracy_every: contrastive accuracy is measured every so many steps.
        watch_every: the features of the training clips are measured every so many epochs of pretraining and
            distillation, and after the last one: retrieval on those of held-out subjects, and RankMe; 0 for never.
        checkpoint_minutes: the training is saved every so many minutes, besides the ends of epochs; 0 for every
            step.
        progress: show progress bars.
        resident: keep all clips on the device that trains, from where every step takes its own by index.
        cuda_graphs: launch each step's forward and backward pass as one CUDA graph each; on one GPU only.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    accuracy_every: int = 10
    watch_every: int = 0
    checkpoint_minutes: float = 10.0
    progress: bool = True
    resident: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        _require(self.devices >= 1, f"trainer.devices: expected at least 1, got {self.devices}")
        _require(self.accuracy_every >= 1, f"trainer.accuracy_every: expected at least 1, got {self.accuracy_every}")
        _require(self.watch_every >= 0, f"trainer.watch_every: expected at least 0, got {self.watch_every}")
        _require(
            self.checkpoint_minutes >= 0,
            f"trainer.checkpoint_minutes: expected at least 0, got {self.checkpoint_minutes}",
        )
        _require(
            self.devices == 1 or not self.cuda_graphs,
            f"trainer.cuda_graphs: expected trainer.devices = 1 with it, got {self.devices}",
        )


@dataclass
class Config:
    """A run: pretraining, distillation, finetuning and evaluation on one dataset and protocol.

    Attributes:
        run: the run's folder.
        seed: of everything random.
    """

    run: Path = Path("runs/ntu60-xsub")
    seed: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"seed: expected at least 0, got {self.seed}")


def _checked_modalities(name: str, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    _require(len(modalities) > 0, f"{name}: expected at least one of {', '.join(MODALITIES)}")
    _require(len(set(modalities)) == len(modalities), f"{name}: expected each once, got {', '.join(modalities)}")
    unknown = [modality for modality in modalities if modality not in MODALITIES]
    _require(not unknown, f"{name}: expected some of {', '.join(MODALITIES)}, got {', '.join(unknown)}")
    return tuple(modalities)


def plain(config: Any) -> Any:
    """Return a dataclass as nested dictionaries of YAML's own types.

    Example:
        >>> plain(DataConfig(folder=Path("data/x")))["folder"]
        'data/x'
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries as dotted names and values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# The sections that a command's outputs follow from. `run` and `trainer` say where, not what.
SECTIONS = {
    "pretrain": ("seed", "data", "views", "encoder", "pretrain"),
    "distill": ("seed", "data", "views", "encoder", "pretrain", "distill"),
    "finetune": ("seed", "data", "views", "encoder", "pretrain", "finetune"),
}


def config_folder(config: Config, command: str) -> Path:
    """Return where the configuration that a command's results follow from is stored.

    It is the run's folder; of a finetuning, which may be one of several in a run, its own.
    """
    return config.run / command / config.finetune.name if command == "finetune" else config.run


def differences(config: Config, command: str) -> dict[str, tuple[Any, Any]]:
    """Return in what a configuration differs from the one that a command's results follow from.

    Args:
        config: the resolved configuration.
        command: ``pretrain``, ``distill`` or ``finetune``.

    Returns:
        Dotted name -> the stored value and the given one; empty where there is nothing yet. An option that came after
        the run was stored is taken to have been at its default, which changes nothing.
    """
    path = config_folder(config, command) / "config.yaml"
    if not path.is_file():
        return {}
    stored = {**dict(flatten(plain(Config()))), **dict(flatten(yaml.safe_load(path.read_text())))}
    given = dict(flatten(plain(config)))
    done = [section for section in SECTIONS[command] if section != command or (config.run / command).exists()]
    return {
        name: (stored.get(name), given.get(name))
        for name in dict.fromkeys([*stored, *given])
        if name.split(".")[0] in done and stored.get(name) != given.get(name)
    }


def store_config(config: Config, command: str) -> None:
    """Write the resolved configuration to where a command's results lie."""
    write_text(config_folder(config, command) / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
