"""Whole optimization steps of the training in `ikem`, against the published formulation of all their parts.

From the joints to the new weights and queues: two views, six modalities, query encoders, momentum, key encoders, loss,
backward pass, SGD. Ours runs the methods that training calls, without the Trainer's log. The published formulation
derives the modalities in a loop over bones, convolves over the graph by a 1x1 convolution and an einsum, moves the key
encoders in a loop over parameters, clones the queues, and makes a matrix of logits for every pair of modalities.

Of its parts torch.compile gets the encoders and the losses: the loop over bones takes minutes to compile and is no
faster for it, and the twelve encoders in one graph would take longer still.

On CUDA the clips are taken from a data set that lies on the device, and the last cases launch our steps as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ikem_ext import LAYOUTS, MODALITIES

from .contrast import (
    DISTILLATION,
    EXCHANGE,
    INFO_NCE,
    STUDENTS,
    WIDTH,
    Loss,
    _published_distillation,
    _published_exchange,
    _published_info_nce,
)
from .measure import OURS, Case
from .modalities import published as published_modalities

try:
    from ikem.config import DistillConfig, EncoderConfig, PretrainConfig, ViewsConfig
    from ikem.data.batches import Batch
    from ikem.data.views import RandomViews, View
    from ikem.distill import Distillation
    from ikem.encoders import unit
    from ikem.pretrain import Pretraining
    from ikem.training import ContrastiveModule
except ImportError as error:
    raise ImportError(
        f"ikem_ext.bench step: measures the training of the package ikem, which is missing: {error}"
    ) from error

NTU = LAYOUTS["ntu25"]
FRAMES, BODIES = 50, 2
MOMENTUM = 0.999
#: Training clips of NTU RGB+D 60, cross-subject: what is resident on a GPU.
RESIDENT = 40091
#: Channels and strides of the encoder's blocks.
BLOCKS = ((16, 1),) * 4 + ((32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (256, 1))
FEATURES = 256


class Sizes(NamedTuple):
    """What a step is measured with."""

    clips: int
    keys: int
    dropout: float = 0.5
    cuda_graphs: bool = False


class Work(NamedTuple):
    """A step, ours and published."""

    name: str
    ours: Callable[[Sizes], ContrastiveModule]
    published: Callable[..., PublishedStep]
    loss: Loss
    encoders: int  # forward passes of an encoder that take as long as the step's; a backward pass is two


def cases(
    device: torch.device, dtype: torch.dtype, quick: bool, *, work: Work, cuda_graphs: bool = False
) -> Iterator[Case]:
    """A step; half precisions are those of autocast. With ``cuda_graphs`` nothing on a CPU, nor what is compiled."""
    on_cpu = device.type == "cpu"
    if on_cpu and cuda_graphs:
        return
    clips, keys = (2, 256) if quick else (32 if on_cpu else 128, 32768)
    sizes = Sizes(clips, keys, cuda_graphs=cuda_graphs)
    variants: dict[str, Step] = {OURS: Ours(work.ours(sizes)), "published": work.published(sizes)}
    if not (quick or cuda_graphs):
        variants["published, compiled"] = work.published(sizes, compiled=True)
    batch = random_batch(clips, device, None if on_cpu else 256 if quick else RESIDENT)
    how = ", CUDA graphs" if cuda_graphs else ""
    similarities = 2 * clips * keys * WIDTH * work.loss.similarities(len(MODALITIES))[1]
    yield Case(
        "step",
        f"{work.name}{how}, N={clips}, K={keys}",
        {variant: Run(step, batch, device, dtype) for variant, step in variants.items()},
        bytes_moved=batch.joints[0].nbytes * clips,
        operations=similarities + work.encoders * _encoder_operations(clips),
        parameters={"clips": clips, "keys": keys, "dtype": str(dtype)},
    )


class Step(nn.Module):
    """A module whose call makes one optimization step; called by `Run`."""

    def start(self) -> None:
        """Prepare what refers to the parameters, once they are where they stay."""
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
        )

    def update(self, loss: Tensor) -> None:
        """Backward pass and new weights."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Run:
    """A step on a batch, in half precisions under autocast."""

    def __init__(self, step: Step, batch: Batch, device: torch.device, dtype: torch.dtype) -> None:
        self.half = dtype if dtype in (torch.bfloat16, torch.float16) else None
        wide = torch.float32 if self.half else dtype
        self.step = step.to(device, wide).train()
        self.step.start()
        self.batch = batch._replace(joints=batch.joints.to(wide))
        self.device = device

    def __call__(self) -> None:
        """Make one step."""
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            self.step(self.batch)


def random_batch(clips: int, device: torch.device, resident: int | None = None) -> Batch:
    """Random clips of NTU's shape with two random views, of a resident data set of so many clips where one is given."""
    generator = torch.Generator().manual_seed(0)
    views = RandomViews(ViewsConfig(), FRAMES, NTU.num_joints)

    def view() -> View:
        drawn = views(clips, generator)
        return drawn._replace(shear=drawn.shear.to(device), crop_start=drawn.crop_start.to(device))

    held = resident or clips
    return Batch(
        torch.randn(held, 3, FRAMES, NTU.num_joints, BODIES, generator=generator).to(device),
        torch.randint(30, 200, (held,), generator=generator).to(device),
        (view(), view()),
        torch.randperm(held, generator=generator)[:clips].to(device) if resident else None,
    )


def _encoder_operations(clips: int) -> int:
    """Multiplications and additions of one encoder's forward pass; the sums over joints are sparse, and left out."""
    parts = len(NTU.adjacency())
    frames, before, total = FRAMES, 3, 0
    for after, stride in BLOCKS:
        total += parts * before * after * frames
        frames = -(-frames // stride)
        total += 9 * after * after * frames
        if before > 3 and (before != after or stride > 1):
            total += before * after * frames
        before = after
    return 2 * clips * BODIES * NTU.num_joints * total


class Ours(Step):
    """The training's own methods, in the order of the Trainer."""

    def __init__(self, module: ContrastiveModule) -> None:
        super().__init__()
        self.module = module
        # The log is left out: it costs little, and its accuracy is measured at every tenth step only.
        module.log_step = lambda losses, *_: torch.stack(list(losses.values())).sum()  # type: ignore[method-assign]

    def start(self) -> None:
        """As the Trainer starts."""
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step; where graphs are captured, which is at the second one, first make that."""
        if self.module.captured is not None and self.module.captured.graphs is None:
            self.train_on(batch)
        return self.train_on(batch)

    def train_on(self, batch: Batch) -> Tensor:
        """Make a step and return the loss before it."""
        self.module.on_train_batch_start(batch, 0)
        outputs = cast("dict[str, Tensor]", self.module.training_step(batch, 0))
        self.update(outputs["loss"])
        self.module.on_train_batch_end(outputs, batch, 0)
        return outputs["loss"].detach()


def pretraining(stage: int) -> Callable[[Sizes], Pretraining]:
    """What makes the pretraining in one of its stages."""

    def make(sizes: Sizes) -> Pretraining:
        config = PretrainConfig(queue_length=sizes.keys, exchange_epoch=0 if stage == 2 else 150)
        return Pretraining(config, EncoderConfig(dropout=sizes.dropout), NTU, cuda_graphs=sizes.cuda_graphs)

    return make


def distillation(sizes: Sizes) -> Distillation:
    """The distillation of a random teacher."""
    encoder = EncoderConfig(dropout=sizes.dropout)
    teacher = Pretraining(PretrainConfig(queue_length=1), encoder, NTU).query
    config = DistillConfig(queue_length=sizes.keys)
    return Distillation(config, encoder, teacher, WIDTH, NTU, cuda_graphs=sizes.cuda_graphs)


class PublishedBlock(nn.Module):
    """A block of ST-GCN."""

    def __init__(self, before: int, after: int, parts: int, stride: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.gcn = nn.ModuleDict({"conv": nn.Conv2d(before, parts * after, 1)})
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(after),
            nn.Dropout(dropout, inplace=True),
        )
        self.residual: nn.Module | None = None
        if residual:
            same = before == after and stride == 1
            self.residual = (
                nn.Identity()
                if same
                else nn.Sequential(nn.Conv2d(before, after, 1, (stride, 1)), nn.BatchNorm2d(after))
            )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T', V)."""
        parts = self.gcn["conv"](x).unflatten(1, (len(adjacency), -1))
        y = self.tcn(torch.einsum("nkctv,kvw->nctw", parts, adjacency).contiguous())
        return torch.relu_(y if self.residual is None else y + self.residual(x))


class PublishedEncoder(nn.Module):
    """ST-GCN with its projection, under the published names."""

    A: Tensor

    def __init__(self, projected: int, hidden: int = FEATURES, dropout: float = 0.5) -> None:
        super().__init__()
        adjacency = NTU.adjacency()
        self.register_buffer("A", adjacency)
        self.data_bn = nn.BatchNorm1d(3 * NTU.num_joints)
        widths = [3] + [width for width, _ in BLOCKS]
        self.st_gcn_networks = nn.ModuleList(
            PublishedBlock(before, after, len(adjacency), stride, dropout if i else 0.0, i > 0)
            for i, (before, (after, stride)) in enumerate(zip(widths, BLOCKS, strict=False))
        )
        self.edge_importance = nn.ParameterList(torch.ones_like(adjacency) for _ in BLOCKS)
        self.fc = published_head(projected, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 3, T, V, M) to features and normalized embeddings."""
        clips, channels, frames, joints, bodies = x.shape
        x = x.permute(0, 4, 3, 1, 2).contiguous().view(clips * bodies, joints * channels, frames)
        x = self.data_bn(x).view(clips, bodies, joints, channels, frames)
        x = x.permute(0, 1, 3, 4, 2).contiguous().view(clips * bodies, channels, frames, joints)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.A * importance)
        features = x.mean((2, 3)).view(clips, bodies, -1).mean(1)
        return features, unit(self.fc(features))


def published_head(projected: int, hidden: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, projected))


def encode(encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Call an encoder: the function that all encoders are compiled through."""
    return encoder(x)


class PublishedStep(Step):
    """What the published steps share."""

    def __init__(self, compiled: bool) -> None:
        super().__init__()
        self.part = partial(torch.compile, dynamic=False) if compiled else lambda function: function
        self.encode = self.part(encode)
        self.enqueued = 0

    def embed(self, encoders: nn.ModuleDict, batch: Batch, view: View) -> tuple[list[Tensor], list[Tensor]]:
        """Features and embeddings of a view, modality by modality."""
        of_batch = slice(None) if batch.clips is None else batch.clips
        derived = published_modalities(
            batch.joints[of_batch],
            batch.num_frames[of_batch],
            NTU,
            shear=view.shear,
            crop_start=view.crop_start,
            crop_padding=view.crop_padding,
        )
        of = dict(zip(MODALITIES, derived, strict=True))
        pairs = [self.encode(encoder, of[modality]) for modality, encoder in encoders.items()]
        return [features for features, _ in pairs], [embedding for _, embedding in pairs]

    def add_queue(self, name: str, length: int, width: int) -> None:
        """Random unit vectors."""
        self.register_buffer(name, normalize(torch.randn(length, width), dim=1))

    @torch.no_grad()
    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Replace the oldest entries of the queues by name; their length is a multiple of the batch."""
        for name, new in keys.items():
            queue = getattr(self, name)
            queue[self.enqueued : self.enqueued + len(new)] = new
        self.enqueued = (self.enqueued + len(new)) % len(queue)


class PublishedStage1(PublishedStep):
    """Momentum contrast of each modality."""

    following: Sequence[str] = MODALITIES
    loss: Callable[..., Tensor] = staticmethod(_published_info_nce)

    def __init__(self, sizes: Sizes, compiled: bool = False) -> None:
        super().__init__(compiled)
        self.query, self.key = (
            nn.ModuleDict({modality: PublishedEncoder(WIDTH, dropout=sizes.dropout) for modality in MODALITIES})
            for _ in range(2)
        )
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)
        for modality in MODALITIES:
            self.add_queue(f"queue_{modality}", sizes.keys, WIDTH)
        self.contrast = self.part(self.loss)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step."""
        first, second = batch.views
        features, q = self.embed(self.query, batch, first)
        with torch.no_grad():
            for modality in self.following:
                pairs = zip(self.query[modality].parameters(), self.key[modality].parameters(), strict=True)
                for query, key in pairs:
                    key.data = key.data * MOMENTUM + query.data * (1 - MOMENTUM)
            _, k = self.embed(self.key, batch, second)
        queues = [getattr(self, f"queue_{modality}").clone().detach() for modality in MODALITIES]
        loss = self.contrasted(features, torch.stack(q), torch.stack(k), queues)
        self.update(loss)
        self.enqueue({f"queue_{modality}": keys for modality, keys in zip(MODALITIES, k, strict=True)})
        return loss.detach()

    def contrasted(self, features: list[Tensor], q: Tensor, k: Tensor, queues: list[Tensor]) -> Tensor:
        """The loss."""
        return self.contrast(q, k, queues)


class PublishedStage2(PublishedStage1):
    """Explicit and implicit exchange."""

    following = ("motion", "acceleration", "angular_velocity")
    loss = staticmethod(_published_exchange)

    def __init__(self, sizes: Sizes, compiled: bool = False) -> None:
        super().__init__(sizes, compiled)
        joined = WIDTH * len(MODALITIES)
        self.exchange_heads = nn.ModuleDict({modality: published_head(joined, joined) for modality in MODALITIES})

    def contrasted(self, features: list[Tensor], q: Tensor, k: Tensor, queues: list[Tensor]) -> Tensor:
        """The loss."""
        heads = zip(self.exchange_heads.values(), features, strict=True)
        h = torch.stack([unit(head(part)) for head, part in heads])
        return self.contrast(q, h, k, queues)


class PublishedDistillation(PublishedStep):
    """Relational distillation, the teacher in eval mode as in ours."""

    teacher_queue: Tensor

    def __init__(self, sizes: Sizes, compiled: bool = False) -> None:
        super().__init__(compiled)
        joined = WIDTH * len(MODALITIES)
        self.teacher = nn.ModuleDict({modality: PublishedEncoder(WIDTH) for modality in MODALITIES})
        self.teacher.requires_grad_(False)
        self.student = nn.ModuleDict(
            {
                modality: PublishedEncoder(joined, hidden=joined, dropout=sizes.dropout)
                for modality in DistillConfig().modalities
            }
        )
        for modality in MODALITIES:
            self.add_queue(f"queue_{modality}", sizes.keys, WIDTH)
        self.add_queue("teacher_queue", sizes.keys, joined)
        self.contrast = self.part(_published_distillation)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss before the step."""
        first, second = batch.views
        with torch.no_grad():
            _, q = self.embed(self.teacher.eval(), batch, first)
            t = normalize(torch.cat(q, dim=1), dim=1)
        _, h = self.embed(self.student, batch, second)
        queues = [getattr(self, f"queue_{modality}").clone().detach() for modality in MODALITIES]
        loss = self.contrast(torch.stack(h), t, self.teacher_queue.clone().detach(), torch.stack(q), queues)
        self.update(loss)
        guides = {f"queue_{modality}": guide for modality, guide in zip(MODALITIES, q, strict=True)}
        self.enqueue({**guides, "teacher_queue": t})
        return loss.detach()


WORKS = (
    Work("stage 1", pretraining(1), PublishedStage1, INFO_NCE, 4 * len(MODALITIES)),
    Work("stage 2", pretraining(2), PublishedStage2, EXCHANGE, 4 * len(MODALITIES)),
    Work("distillation", distillation, PublishedDistillation, DISTILLATION, len(MODALITIES) + 3 * STUDENTS),
)
# Those as CUDA graphs last: should the capture fail, all else is measured.
PARTS = tuple(partial(cases, work=work, cuda_graphs=cuda_graphs) for cuda_graphs in (False, True) for work in WORKS)
