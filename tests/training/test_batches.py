"""Views and batches: ranges, reproducibility, and the shares of several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ikem.config import Config, ViewsConfig
from ikem.data.batches import ClipViews, Draw, ShuffledBatches
from ikem.data.dataset import PreparedDataset
from ikem.data.views import RandomViews, View, scale_bones, stretch_window
from ikem.seeding import derive_seed, generator
from ikem.training import open_data
from ikem_ext import derive_modalities


def test_views_have_the_published_ranges() -> None:
    view = RandomViews(ViewsConfig(), frames=50, joints=25)(4000, generator(0, "test"))
    assert view.crop_padding == 8
    assert sorted(set(view.crop_start.tolist())) == list(range(17))
    assert (view.shear.diagonal(dim1=1, dim2=2) == 1).all()
    off_diagonal = view.shear[:, ~torch.eye(3, dtype=torch.bool)]
    assert off_diagonal.abs().max() <= 0.5
    assert off_diagonal.std().item() == pytest.approx(1 / 12**0.5, rel=0.02)
    assert torch.corrcoef(off_diagonal.T).fill_diagonal_(0).abs().max() < 0.1


def test_views_can_be_switched_off(dataset: PreparedDataset) -> None:
    joints, num_frames = torch.from_numpy(dataset.joints[:4].copy()), torch.from_numpy(dataset.num_frames[:4])
    view = RandomViews(ViewsConfig(shear_amplitude=0, crop_ratio=0), frames=8, joints=15)(4, generator(0, "test"))
    derived = view.derive(joints, num_frames, dataset.layout, ("joint", "motion"))
    plain = derive_modalities(joints, num_frames, dataset.layout, modalities=("joint", "motion"))
    torch.testing.assert_close(derived, plain)


def test_turning_and_tilting_are_rotations() -> None:
    config = ViewsConfig(shear_amplitude=0, turn_degrees=30, tilt_degrees=10)
    rotation = RandomViews(config, frames=8, joints=15)(500, generator(0, "test")).shear
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(500, 3, 3))
    up = rotation[:, :, 1]  # where the vertical axis goes: only tilting moves it
    tilts = torch.rad2deg(torch.atan2(up[:, 2], up[:, 1]))
    torch.testing.assert_close(up[:, 0], torch.zeros(500))
    turns = torch.rad2deg(torch.atan2(rotation[:, 0, 2], rotation[:, 0, 0]))
    for angles, limit in ((tilts, 10), (turns, 30)):
        assert angles.abs().max() <= limit + 1e-3
        assert angles.max() > 0.9 * limit > -0.9 * limit > angles.min()


def test_turning_comes_after_the_shear() -> None:
    """The same random numbers, with and without a shear: what turns it is on its left."""
    amounts = {"turn_degrees": 30, "tilt_degrees": 10}
    sheared, turned, both = (
        RandomViews(config, frames=8, joints=15)(50, generator(0, "test")).shear
        for config in (ViewsConfig(), ViewsConfig(shear_amplitude=0, **amounts), ViewsConfig(**amounts))
    )
    torch.testing.assert_close(both, turned @ sheared)


def test_scaled_bones_keep_their_directions(dataset: PreparedDataset) -> None:
    layout, joints = dataset.layout, torch.from_numpy(dataset.joints[:3].copy())
    scale = torch.rand(3, 15) + 0.5
    scaled = scale_bones(joints, scale, layout)
    parents = list(layout.parents)
    bones, scaled_bones = (x - x[..., parents, :] for x in (joints, scaled))
    torch.testing.assert_close(scaled[..., layout.root, :], joints[..., layout.root, :])
    torch.testing.assert_close(scaled_bones, bones * scale[:, None, None, :, None], atol=1e-5, rtol=1e-4)


def test_scaled_bones_leave_confidences(dataset: PreparedDataset) -> None:
    layout, joints = replace(dataset.layout, third="confidence"), torch.from_numpy(dataset.joints[:3].copy())
    scaled = scale_bones(joints, torch.rand(3, 15) + 0.5, layout)
    assert torch.equal(scaled[:, 2], joints[:, 2])
    assert not torch.equal(scaled[:, :2], joints[:, :2])


def test_windows_are_resized_parts_and_change_the_pace(dataset: PreparedDataset) -> None:
    joints, num_frames = torch.from_numpy(dataset.joints[:3].copy()), torch.full((3,), 40)
    whole = stretch_window(joints, torch.tensor([[0.0, 1.0]]).expand(3, 2))
    torch.testing.assert_close(whole, joints)
    window = torch.tensor([[2 / 7, 3 / 7]]).expand(3, 2)  # frames 2 to 5 of 8
    part = stretch_window(joints, window)
    expected = torch.nn.functional.interpolate(
        joints[:, :, 2:6].flatten(3).movedim(2, -1).flatten(1, 2), size=8, mode="linear", align_corners=True
    )
    torch.testing.assert_close(part.flatten(3).movedim(2, -1).flatten(1, 2), expected)
    still = View(torch.eye(3).expand(3, 3, 3), torch.zeros(3, dtype=torch.long), 0, window=window)
    derived = still.derive(joints, num_frames, dataset.layout, ("motion",))
    expected = derive_modalities(part, torch.full((3,), 17), dataset.layout, modalities=("motion",))
    torch.testing.assert_close(derived, expected)


def test_windows_and_bones_have_the_ranges_asked_for() -> None:
    config = ViewsConfig(least_window=0.6, bone_jitter=0.1)
    view = RandomViews(config, frames=8, joints=15)(4000, generator(0, "test"))
    start, length = view.window.unbind(1)
    assert 0.6 <= length.min() < 0.61 and 0.99 < length.max() <= 1
    assert length.mean().item() == pytest.approx(0.8, abs=0.01)
    place = (start / (1 - length))[length < 0.95]  # of the part, between the beginning of the clip and its end
    assert 0 <= place.min() < 0.01 and 0.99 < place.max() <= 1 + 1e-5
    assert place.mean().item() == pytest.approx(0.5, abs=0.02)
    assert view.bone_scale.shape == (4000, 15)
    assert view.bone_scale.log().mean().item() == pytest.approx(0, abs=0.002)
    assert view.bone_scale.log().std().item() == pytest.approx(0.1, rel=0.02)


class Fetched:
    """Joints that note how many clips are asked for at a time."""

    def __init__(self, clips: int) -> None:
        self.array = np.random.default_rng(0).normal(size=(clips, 3, 1, 2, 1)).astype(np.float32)
        self.shape = self.array.shape
        self.most = 0

    def __getitem__(self, clips: np.ndarray) -> np.ndarray:
        self.most = max(self.most, len(clips))
        return self.array[clips]

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return self[np.arange(len(self.array))]


@pytest.mark.parametrize("clips", [1, 1024, 2500])
def test_a_data_set_moves_to_its_device_in_pieces(config: Callable[..., Config], clips: int) -> None:
    """The host, which has it mapped, may have no room for all of it."""
    data = open_data(config())
    data.dataset.joints, data.dataset.num_frames = Fetched(clips), np.arange(clips)
    draw = Draw(torch.tensor([0]), ())
    batch = data.on_after_batch_transfer(draw, 0)
    assert torch.equal(batch.joints, torch.from_numpy(data.dataset.joints.array))
    assert torch.equal(batch.num_frames, torch.arange(clips)) and batch.clips is draw.clips
    assert data.dataset.joints.most <= 1024
    assert data.on_after_batch_transfer(draw, 0).joints is batch.joints


def test_seeds_are_independent() -> None:
    seeds = {
        derive_seed(seed, purpose, step) for seed in range(5) for purpose in ("views", "order") for step in range(50)
    }
    assert len(seeds) == 500


def test_every_epoch_has_an_order_of_its_own_and_leaves_out_an_incomplete_batch() -> None:
    batches = ShuffledBatches(np.arange(100, 123), batch_size=5, seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        plans = list(batches)
        assert len(plans) == len(batches) == 4
        assert [plan.step for plan in plans] == list(range(4 * epoch, 4 * epoch + 4))
        clips = np.concatenate([plan.clips for plan in plans])
        assert len(set(clips)) == 20
        assert set(clips) <= set(range(100, 123))
        epochs.append(clips)
    assert (epochs[0] == epochs[2]).all()
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != np.concatenate([plan.clips for plan in ShuffledBatches(np.arange(100, 123), 5, 2)])).any()


def test_an_epoch_of_more_steps_has_every_clip_as_often_and_begins_as_without() -> None:
    clips = np.arange(100, 123)
    batches = ShuffledBatches(clips, batch_size=5, seed=1, steps=23)  # 115 clips, each of the 23 five times
    plans = list(batches)
    assert [plan.step for plan in plans] == list(range(23)) and {len(plan.clips) for plan in plans} == {5}
    seen = np.concatenate([plan.clips for plan in plans]).reshape(5, 23)
    assert (np.sort(seen) == clips).all()
    assert (seen[0] != seen[1]).any()
    plain = ShuffledBatches(clips, batch_size=5, seed=1)
    assert all((a.clips == b.clips).all() for a, b in zip(plain, plans, strict=False))
    batches.go_on_after(23 + 7)  # within the second epoch
    rest = list(batches)
    batches.set_epoch(1)
    assert [plan.step for plan in rest] == list(range(30, 46))
    for a, b in zip(rest, list(batches)[7:], strict=True):
        assert (a.clips == b.clips).all()


def test_a_batch_larger_than_the_training_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size: expected at most the 3 training clips, got 4"):
        ShuffledBatches(np.arange(3), batch_size=4, seed=1)


def test_processes_share_the_joined_batch(dataset: PreparedDataset) -> None:
    config = ViewsConfig(
        bone_jitter=0.1, least_window=0.5, mirror_probability=0.5, speed=(0.5, 2), jitter=0.1, mask_joints=0.3
    )
    views = RandomViews(config, frames=8, joints=15)
    plan = next(iter(ShuffledBatches(dataset.split("halves", "train"), batch_size=8, seed=1)))
    joined = ClipViews(dataset, views, 1, rank=0, world_size=1)[plan]
    np.testing.assert_array_equal(joined.joints, dataset.joints[plan.clips])
    np.testing.assert_array_equal(joined.num_frames, dataset.num_frames[plan.clips])
    assert not torch.equal(joined.views[0].shear, joined.views[1].shear)
    shares = [ClipViews(dataset, views, 1, rank, world_size=2)[plan] for rank in (0, 1)]
    assert torch.equal(torch.cat([share.joints for share in shares]), joined.joints)
    for view in (0, 1):
        whole = joined.views[view]._asdict()
        assert [name for name, value in whole.items() if value is None] == []  # every kind of change takes part
        for name, value in whole.items():
            parts = [getattr(share.views[view], name) for share in shares]
            if name == "crop_padding":  # one number for all clips
                assert parts == [value, value]
            else:
                assert torch.equal(torch.cat(parts), value), name


@pytest.mark.parametrize("resident", [False, True])
def test_a_shuffled_batch_is_the_joined_batch(dataset: PreparedDataset, resident: bool) -> None:
    """Every process gets the key view of other clips, of each clip one does, and each knows where its own are."""
    views = RandomViews(ViewsConfig(jitter=0.1), frames=8, joints=15)
    plans = list(ShuffledBatches(dataset.split("halves", "train"), batch_size=8, seed=1))
    orders = []
    for plan in plans:
        joined = ClipViews(dataset, views, 1, rank=0, world_size=1, shuffle_keys=True)[plan]
        assert joined.keys is joined.places is None and len(joined.views) == 2  # one process has nothing to shuffle
        shares = [ClipViews(dataset, views, 1, rank, 2, shuffle_keys=True, resident=resident)[plan] for rank in (0, 1)]
        order = torch.cat([share.places for share in shares])
        assert sorted(order.tolist()) == list(range(8))
        orders.append(order.tolist())
        for batches, view, places in (
            (shares, joined.views[0], torch.arange(8)),
            ([share.keys for share in shares], joined.views[1], order),
        ):
            for name in ("shear", "crop_start", "noise"):
                parts = torch.cat([getattr(batch.views[0], name) for batch in batches])
                assert torch.equal(parts[places], getattr(view, name)), name
            clips = torch.cat([batch.clips if resident else batch.numbers for batch in batches])
            assert torch.equal(clips[places], joined.numbers)
            if not resident:
                assert torch.equal(torch.cat([batch.joints for batch in batches])[places], joined.joints)
                assert torch.equal(torch.cat([batch.num_frames for batch in batches])[places], joined.num_frames)
    assert orders[0] != orders[1]
    assert list(range(8)) not in orders
