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

try:
    from .cases import PARTS
except ImportError as error:
    raise ImportError(
        f"ikem_ext.bench step: measures the training of the package ikem, which is missing: {error}"
    ) from error

__all__ = ["PARTS"]
