from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from ikem_ext import LAYOUTS
from ikem_ext.bench import models
from ikem_ext.bench.operations import frames_met, operations_of
from ikem_ext.nn.stgcn import ConvTemporalGraphical


@pytest.mark.parametrize(
    ("frames", "taps", "stride", "dilation", "padding"),
    [(13, 9, 1, 1, 4), (50, 9, 2, 1, 4), (25, 5, 2, 2, 4), (7, 3, 1, 1, 0), (2, 9, 1, 1, 4)],
)
def test_taps_meet_as_many_ones_as_a_convolution_of_ones_sums(
    frames: int, taps: int, stride: int, dilation: int, padding: int
) -> None:
    ones = torch.nn.functional.conv1d(torch.ones(1, 1, frames), torch.ones(1, 1, taps), None, stride, padding, dilation)
    assert frames_met(frames, taps, stride, dilation, padding) == ones.sum()


def test_padding_is_no_work() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, (9, 1), padding=(4, 0)), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, (3, 1), groups=4)
    )
    expected = 2 * 5 * (6 * 4 * frames_met(13, 9, padding=4) + 8 * 6 * 13 + 8 * 2 * 3 * 11)
    assert operations_of(model, torch.zeros(1, 4, 13, 5)) == expected
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(("c_in", "c_out"), [(4, 6), (6, 4)])
def test_joints_without_an_edge_are_no_work(c_in: int, c_out: int) -> None:
    adjacency = LAYOUTS["ntu25"].adjacency()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = ConvTemporalGraphical(c_in, c_out, len(adjacency))
            self.unit.forward = partial(models._published_st_gcn_unit, self.unit)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.unit(x, adjacency)[0]

    clips, frames, (parts, joints, _) = 2, 7, adjacency.shape
    edges = int(adjacency.count_nonzero())
    expected = 2 * clips * frames * (joints * parts * c_in * c_out + edges * min(c_in, c_out))
    assert operations_of(Model(), torch.zeros(clips, c_in, frames, joints)) == expected
