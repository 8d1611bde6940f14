"""What the linear probe has learned, put together with the encoders: a classifier to be used after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ikem.data.recipe import Recipe
from ikem.evaluation.features import Scaling
from ikem.evaluation.fusion import DOUBT
from ikem.evaluation.linear import LinearHeads
from ikem.evaluation.stages import Stage
from ikem.use.classifier import ActionClassifier, Classifier, Fusion


@torch.no_grad()
def plain_heads(heads: LinearHeads, stream: str, scaling: Scaling | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the heads of a trained stream as linear layers of features as the encoders make them.

    What is done to features before the product, ``(x - mean) / deviation`` by the scaling and by batch normalization,
    moves into the weights: ``w' = w / deviation``, ``b' = b - w' . mean``.

    Args:
        heads: the linear probe's.
        stream: which of its streams.
        scaling: of the features that the heads were trained on.

    Returns:
        By modality, weight (L, D) and bias (L,), float32.
    """
    modalities, trained = heads.streams.modalities, list(heads.streams.trained)
    factor, offset = torch.ones(len(modalities), 1, 1).double(), torch.zeros(len(modalities), 1, 1).double()
    if scaling is not None:
        factor, offset = 1 / scaling.deviation.double(), -scaling.mean.double() / scaling.deviation.double()
    if heads.norm is not None:
        state = {name: value.cpu().double() for name, value in heads.norm.named_buffers()}
        rate = (state["running_var"] + heads.norm.eps).rsqrt().view(len(modalities), 1, -1)
        factor, offset = factor * rate, (offset - state["running_mean"].view_as(rate)) * rate
    members = heads.streams.trained[stream]
    first = sum(len(heads.streams.trained[name]) for name in trained[: trained.index(stream)])
    found = {}
    for place, member in enumerate(members, start=first):
        weight, bias = heads.weight[place].cpu().double(), heads.bias[place].cpu().double()
        bias = bias + offset[member].expand(1, len(weight)) @ weight
        weight = factor[member].expand(1, len(weight)).mT * weight
        found[modalities[member]] = (weight.mT.float(), bias[0].float())
    return found


def classifier_of(
    stage: Stage,
    heads: LinearHeads,
    normalize: bool,
    scaling: Scaling | None,
    weights: Mapping[str, float] | None,
    classes: Sequence[str],
    recipe: Recipe,
    origin: Mapping[str, Any],
) -> ActionClassifier:
    """Put a stage's encoders and the linear probe's heads of all its modalities together.

    Args:
        stage: whose encoders.
        heads: of the linear probe.
        normalize: the features that the heads were trained on had length 1.
        scaling: of those features after that.
        weights: by modality, learned on training clips, by which the probabilities of separately trained heads are
            pooled; None takes the heads that were trained together, whose logits are averaged.
        classes: the names of the classes.
        recipe: of the data set.
        origin: what the classifier says of where it comes from, beside the stage and the stream.
    """
    modalities = heads.streams.modalities
    together = heads.streams.together
    if weights is None:
        chosen, fusion = plain_heads(heads, together, scaling), None
    else:
        chosen = {name: plain_heads(heads, name, scaling)[name] for name in modalities}
        fusion = Fusion("pool", tuple(weights[name] for name in modalities), DOUBT)
    streams = {}
    for modality, (weight, bias) in chosen.items():
        streams[modality] = Classifier(stage.encoders[modality], len(classes), normalize)
        streams[modality].head.load_state_dict({"weight": weight, "bias": bias})
    said = {"stage": stage.name, "stream": together if weights is None else f"learned_{together}", **origin}
    return ActionClassifier(streams, stage.config, classes, recipe, fusion, said).eval()
