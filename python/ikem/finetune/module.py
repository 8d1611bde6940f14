"""The training: a classifier for each modality, whole encoders and a head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ikem.config import EncoderConfig, FinetuneConfig, plain
from ikem.cuda_graphs import side_by_side
from ikem.data.batches import Batch
from ikem.encoders import Encoder, encoders_of
from ikem.evaluation.scores import Row
from ikem.seeding import derive_seed
from ikem.training import TrainingModule
from ikem.training.optimizer import adamw
from ikem.use.classifier import Classifier
from ikem_ext import SkeletonLayout

TESTED = "tested"  # the key of a checkpoint under which the rows of the last epoch stand


class Finetuning(TrainingModule):
    """A classifier for each modality, trained side by side by cross entropy.

    Args:
        config: of finetuning.
        encoder_config: of the encoders.
        encoders: by modality.
        layout: of the skeletons.
        num_classes: L.
        seed: of the run; the heads follow from it, whatever the encoders are.
        accuracy_every: accuracy is measured every so many steps.
        cuda_graphs: launch what is between the view and the losses, and its backward pass, as CUDA graphs.

    Attributes:
        rows: what the test said after the last epoch, as `Scoreboard` has it.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        encoder_config: EncoderConfig,
        encoders: Mapping[str, Encoder],
        layout: SkeletonLayout,
        num_classes: int,
        *,
        seed: int = 1,
        accuracy_every: int = 10,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(config.learning, tuple(encoders), encoder_config, layout, seed, accuracy_every, cuda_graphs)
        self.config = config
        self.learning = config.learning
        torch.manual_seed(derive_seed(seed, "finetune heads"))
        self.streams = nn.ModuleDict(
            {modality: Classifier(encoder, num_classes) for modality, encoder in encoders.items()}
        )
        self.train()  # loaded encoders come in eval mode
        self.rows: list[Row] = []

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders by modality."""
        return encoders_of(self.streams)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step on one view of each clip."""
        assert batch.labels is not None
        losses, logits = self.compare(self.derive(batch, batch.views[0], self.modalities), batch.labels)
        right = logits.argmax(-1) == batch.labels
        return {"loss": self.log_losses(losses, lambda: right.float().mean(-1))}

    def forward(self, view: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Map a view (G, N, 3, T, V, M) and labels (N,) to the losses (G,) and the logits (G, N, L)."""
        calls = [partial(stream, part) for stream, part in zip(self.streams.values(), view, strict=True)]
        logits = torch.stack(side_by_side(calls, view.device)).float()
        smoothing = self.learning.label_smoothing
        losses = torch.stack([functional.cross_entropy(each, labels, label_smoothing=smoothing) for each in logits])
        return {"cross_entropy": losses}, logits.detach()

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Map features (G, m, F) of clips, on the CPU, to logits (G, m, L)."""
        heads = [cast(Classifier, stream).head for stream in self.streams.values()]
        pairs = zip(heads, features, strict=True)
        return torch.stack([functional.linear(x, head.weight.cpu(), head.bias.cpu()) for head, x in pairs])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoders' layers, from the last to the first, and the heads.

        What is nearer to the skeleton learns slower by `layer_decay`, as in Clark et al., ICLR 2020 (ELECTRA), if it
        has been pretrained: random weights have nothing to keep.
        """
        streams = [cast(Classifier, stream) for stream in self.streams.values()]
        layers = list(zip(*(reversed(stream.encoder.layers()) for stream in streams), strict=True))
        decay = self.learning.layer_decay if self.config.init == "pretrained" else 1.0
        rates = [self.learning.encoder_learning_rate * decay**depth for depth in range(1, len(layers) + 1)]
        groups = [*zip(layers, rates, strict=True), ([s.head for s in streams], self.learning.head_learning_rate)]
        return [{"params": [p for each in same for p in each.parameters()], "lr": rate} for same, rate in groups]

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Return what makes the steps: SGD, or AdamW."""
        groups, options = self.parameter_groups(), self.learning
        if options.optimizer == "adamw":
            return adamw(groups, options.weight_decay)
        return torch.optim.SGD(
            groups, momentum=options.sgd_momentum, weight_decay=options.weight_decay, nesterov=options.nesterov
        )

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says beside encoder and layout."""
        return {"kind": "finetune", "finetune": plain(self.config)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the test said."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[TESTED] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it over."""
        super().on_load_checkpoint(checkpoint)
        self.rows = checkpoint[TESTED]
