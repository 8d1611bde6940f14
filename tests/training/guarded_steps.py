"""Steps of every encoder in sizes at which PyTorch's own convolutions have written beyond their memory.

Run by `test_memory.py` in a process of its own; prints each case before it runs.
"""

from __future__ import annotations

import itertools

import torch

from ikem.config import EncoderConfig
from ikem.encoders import ARCHITECTURES, build_encoder
from ikem_ext import get_layout
from ikem_ext.nn import stgcn

LAYOUT = get_layout("ntu25")
FRAMES = (25, 50, 64, 300)
STEPS = 2


def steps(module: torch.nn.Module, *inputs: torch.Tensor) -> None:
    for _ in range(STEPS):
        module.zero_grad()
        output = module(*inputs)
        (output[0] if isinstance(output, tuple) else output).square().sum().backward()


def encoders() -> None:
    for architecture, width in itertools.product(ARCHITECTURES, (4, 8, 12, 16, 24)):
        try:
            config = EncoderConfig(architecture, base_width=width, feature_width=4 * width)
        except ValueError:  # not a width of this architecture
            continue
        encoder = build_encoder(config, LAYOUT)
        for frames in FRAMES:
            print(architecture, width, frames, flush=True)
            steps(encoder, torch.randn(2, 3, frames, LAYOUT.num_joints, 1))


def blocks() -> None:
    adjacency = LAYOUT.adjacency()
    for channels, frames in itertools.product((3, 8), FRAMES):
        print("stgcn.st_gcn", channels, frames, flush=True)
        x = torch.randn(2, channels, frames, LAYOUT.num_joints).to(memory_format=torch.channels_last)
        steps(stgcn.st_gcn(channels, 16, (9, len(adjacency)), stride=2), x.requires_grad_(), adjacency)


if __name__ == "__main__":
    torch.set_num_threads(1)
    encoders()
    blocks()
