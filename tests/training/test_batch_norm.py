"""Batch norm across processes: what `sync` computes, and what `shuffle` keeps from the encoders."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ikem.config import EncoderConfig, ViewsConfig
from ikem.data.batches import BatchPlan, ClipViews
from ikem.data.dataset import Clip, PreparedDataset, write_dataset
from ikem.data.preprocess import Preprocessing
from ikem.data.views import RandomViews
from ikem.encoders import ARCHITECTURES, build_encoder, norm
from ikem.encoders.norm import SyncedBatchNorm, batch_norm, synchronize
from ikem_ext import get_layout

SHAPES = {nn.BatchNorm1d: (6, 3, 5), nn.BatchNorm2d: (6, 3, 5, 4)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process (what two compute is a test of whole trainings, in test_processes.py)."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def both(kind: type[nn.BatchNorm2d]) -> tuple[nn.Module, nn.Module]:
    """A norm with weights that are not those of the start, and the same one synchronized."""
    own = kind(3, momentum=0.3)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    together = copy.deepcopy(own)
    synchronize(together)
    return own, together


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_is_batch_norm(kind: type[nn.BatchNorm2d], dtype: torch.dtype) -> None:
    """Values, gradients and running statistics; with features in bfloat16 the norm itself stays in float32."""
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = (3 + 2 * torch.randn(SHAPES[kind])).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    grad = torch.randn(x.shape).to(dtype)
    found = []
    for each in both(kind):
        part = x.clone().requires_grad_()
        each.to(wide)
        y = each(part)
        y.backward(grad)
        assert y.dtype == part.grad.dtype == dtype
        found.append({"y": y.detach(), "x": part.grad} | {f"grad {n}": p.grad for n, p in each.named_parameters()})
        found[-1] |= each.state_dict()
    torch.testing.assert_close(found[1], found[0], **({"rtol": 0.02, "atol": 0.05} if dtype.itemsize == 2 else {}))


@pytest.mark.usefixtures("alone")
def test_has_the_gradient_of_its_formula() -> None:
    _, together = both(nn.BatchNorm2d)
    together.double()
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: batch_norm(together, x, update=False), x)


def test_counts_and_evaluates_as_ever() -> None:
    own, together = both(nn.BatchNorm2d)
    assert list(own.state_dict()) == list(together.state_dict())
    x = torch.randn(SHAPES[nn.BatchNorm2d])
    assert torch.equal(together.eval()(x), own.eval()(x))  # without any group of processes
    synchronize(together, together=False)
    assert type(together) is nn.BatchNorm2d


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_norms_of_an_encoder_are_synchronized(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm whose parameters are applied by something else than the norm would quietly stay local."""
    config = EncoderConfig(architecture, base_width=8, feature_width=8, dropout=0)
    encoder = build_encoder(config, get_layout("sbu15"))
    synchronize(encoder)
    asked = []
    joined = norm._joined_statistics
    monkeypatch.setattr(norm, "_joined_statistics", lambda x: asked.append(x.shape[1]) or joined(x))
    with torch.no_grad():
        encoder(torch.randn(2, 3, 16, 15, 1))
    norms = [each for each in encoder.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert all(isinstance(each, SyncedBatchNorm) for each in norms)
    assert sorted(asked) == sorted(each.num_features for each in norms)


PROCESSES, SHARE = 8, 16


@pytest.fixture(scope="module")
def solo(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Clips of two bodies, of which the second is absent; each has a posture of its own."""
    layout, clips = get_layout("sbu15"), PROCESSES * SHARE
    joints = np.zeros((clips, 3, 8, layout.num_joints, 2))
    joints[..., 0] = np.random.default_rng(0).normal(size=(clips, 3, 1, layout.num_joints))
    folder = tmp_path_factory.mktemp("solo") / "prepared"
    write_dataset(
        folder,
        joints=joints,
        clips=[Clip(f"clip{i}", 0, 0, None, None, None, 30) for i in range(clips)],
        classes=["stand"],
        layout=layout,
        source="npz",
        preprocessing=asdict(Preprocessing(8, 2, center="frame", align="none", lost_frames="interpolate")),
        protocols={"all": {"train": list(range(clips)), "test": []}},
    )
    return PreparedDataset(folder)


def look_of_nobody(x: Tensor) -> Tensor:
    """What an absent body is, once the coordinates (N, 3, T, V, 2) are normalized: the batch's mean, and no clip's."""
    bodies = x.permute(0, 4, 3, 1, 2).flatten(0, 1).flatten(1, 2)
    return nn.BatchNorm1d(bodies.shape[1])(bodies)[1].mean(-1)


def recognized(dataset: PreparedDataset, shuffle_keys: bool) -> float:
    """How many queries find the process that has their key, by what an absent body looks like in each of them."""
    plan = BatchPlan(0, np.random.default_rng(0).permutation(len(dataset)))
    views = RandomViews(ViewsConfig(shear_amplitude=0.1), frames=8, joints=15)
    batches = [ClipViews(dataset, views, 1, r, PROCESSES, shuffle_keys=shuffle_keys)[plan] for r in range(PROCESSES)]
    looks = [
        [
            look_of_nobody(view.derive(part.joints, part.num_frames, dataset.layout, ("joint",))[0])
            for part, view in batch.looks()
        ]
        for batch in batches
    ]
    queries, keys = (torch.stack(part) for part in zip(*looks, strict=True))
    found = torch.cdist(queries, keys).argmin(1)
    own = torch.arange(PROCESSES)[:, None].expand(-1, SHARE)
    holders = torch.stack([batch.places for batch in batches]) // SHARE if shuffle_keys else own
    return (found[:, None] == holders).float().mean().item()


def test_shuffling_hides_a_key_from_its_query(solo: PreparedDataset) -> None:
    """A process's query and key batch are of the same clips, which an absent body shows; shuffled, it is near chance.

    Not quite: where the statistics are nearest a query's own clip has more often a part in them than elsewhere.
    """
    assert recognized(solo, shuffle_keys=False) == 1
    assert recognized(solo, shuffle_keys=True) < 3 / PROCESSES
