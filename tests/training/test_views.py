"""What the views change beyond shear, crop, bones and window, how often, and what they leave as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ikem.config import Config, ViewsConfig
from ikem.data.dataset import PreparedDataset
from ikem.data.views import RandomViews, View, add_noise, mirror, play
from ikem.seeding import generator
from ikem.training import open_data
from ikem_ext import derive_modalities, get_layout

STILL = {"shear_amplitude": 0, "crop_ratio": 0}
MORE = {
    "mirror_probability": 0.5,
    "speed": (0.5, 2),
    "scale": (0.7, 1.2),
    "jitter": 0.1,
    "mask_joints": 0.2,
    "mask_frames": 0.25,
}


def draw(clips: int = 4000, *, seed: int = 0, bodies: int = 1, **options: object) -> View:
    return RandomViews(ViewsConfig(**options), frames=8, joints=15, bodies=bodies)(clips, generator(seed, "test"))


def joints_of(dataset: PreparedDataset, clips: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(dataset.joints[:clips].copy()), torch.from_numpy(dataset.num_frames[:clips].copy())


@pytest.mark.parametrize("bones", [0, 0.1])
def test_what_is_new_leaves_the_published_draws(bones: float) -> None:
    published = draw(50, bone_jitter=bones)
    more = draw(50, bone_jitter=bones, **{**MORE, "scale": (1, 1)})
    assert torch.equal(published.shear, more.shear) and torch.equal(published.crop_start, more.crop_start)
    assert bones == 0 or torch.equal(published.bone_scale, more.bone_scale)
    assert published[4:] == (None,) * 5


def test_seeds_decide() -> None:
    first, again, other = draw(20, **MORE), draw(20, **MORE), draw(20, seed=1, **MORE)
    for name, value in first._asdict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, name)), name
            assert not torch.equal(value, getattr(other, name)), name


def test_a_mirror_exchanges_left_and_right() -> None:
    layout = get_layout("ntu25")
    joints = torch.randn(3, 3, 4, 25, 2)
    mirrored = mirror(joints, torch.tensor([True, False, True]), layout)
    assert torch.equal(mirrored[1], joints[1])
    for left, right in (("left_hand", "right_hand"), ("head", "head"), ("left_thumb", "right_thumb")):
        here, there = layout.joint_names.index(left), layout.joint_names.index(right)
        for clip in (0, 2):
            assert torch.equal(mirrored[clip, 0, :, here], -joints[clip, 0, :, there])
            assert torch.equal(mirrored[clip, 1:, :, there], joints[clip, 1:, :, here])
    assert torch.equal(mirror(mirrored, torch.tensor([True, False, True]), layout), joints)


def test_a_view_of_every_clip_mirrored_is_that_of_mirrored_clips(dataset: PreparedDataset) -> None:
    joints, num_frames = joints_of(dataset)
    view = draw(6, **STILL, mirror_probability=1)
    derived = view.derive(joints, num_frames, dataset.layout, ("joint", "bone", "motion"))
    flipped = joints[:, :, :, list(dataset.layout.mirror)] * torch.tensor([-1.0, 1, 1]).view(3, 1, 1, 1)
    expected = derive_modalities(flipped, num_frames, dataset.layout, modalities=("joint", "bone", "motion"))
    torch.testing.assert_close(derived, expected)


def test_speed_resamples_about_the_middle(dataset: PreparedDataset) -> None:
    joints, num_frames = joints_of(dataset, 3)
    speed = torch.tensor([1.0, 0.6, 1.9])
    played = play(joints, speed)
    torch.testing.assert_close(played[0], joints[0])
    for clip, factor in enumerate(speed.tolist()):
        position = 3.5 + factor * (np.arange(8) - 3.5)
        position = np.where(position < 0, -position, position)
        position = np.where(position > 7, 14 - position, position)
        for track, shown in zip(
            joints[clip].movedim(1, -1).reshape(-1, 8), played[clip].movedim(1, -1).reshape(-1, 8), strict=True
        ):
            np.testing.assert_allclose(shown, np.interp(position, np.arange(8), track), atol=1e-5)
    view = View(torch.eye(3).expand(3, 3, 3), torch.zeros(3, dtype=torch.long), 0, speed=speed)
    motion = view.derive(joints, num_frames, dataset.layout, ("motion",))
    torch.testing.assert_close(motion, derive_modalities(played, num_frames, dataset.layout, modalities=("motion",)))


def test_clips_of_one_frame_are_played() -> None:
    joints = torch.randn(2, 3, 1, 15, 1)
    assert torch.equal(play(joints, torch.tensor([0.5, 2.0])), joints)


def test_scaling_multiplies_coordinates(dataset: PreparedDataset) -> None:
    joints, num_frames = joints_of(dataset)
    view = draw(6, **STILL, scale=(0.5, 2))
    factor = view.shear[:, 0, 0]
    assert factor.unique().numel() == 6
    assert torch.equal(view.shear, factor[:, None, None] * torch.eye(3))
    (seen,) = view.derive(joints, num_frames, dataset.layout, ("joint",))
    torch.testing.assert_close(seen, joints * factor.view(-1, 1, 1, 1, 1))


def test_factors_have_the_ranges_and_probabilities_asked_for() -> None:
    view = draw(speed=(0.5, 2), speed_probability=0.75, scale=(0.7, 1.2), **STILL)
    for drawn, (least, most), share in ((view.speed, (0.5, 2), 0.75), (view.shear[:, 1, 1], (0.7, 1.2), 1)):
        changed = drawn[drawn != 1]
        assert len(changed) / len(drawn) == pytest.approx(share, abs=0.03)
        assert least <= changed.min() < least + 0.01 and most - 0.01 < changed.max() <= most
        assert changed.mean().item() == pytest.approx((least + most) / 2, abs=0.03)


def test_jitter_is_normal_noise_on_some_of_the_clips() -> None:
    noise = draw(800, jitter=0.05, jitter_probability=0.25, bodies=2).noise
    assert noise.shape == (800, 3, 8, 15, 2)
    noisy = noise.flatten(1).any(1)
    assert noisy.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert noise[noisy].std().item() == pytest.approx(0.05, rel=0.01)
    assert noise[noisy].mean().item() == pytest.approx(0, abs=1e-3)


def test_noise_is_added_to_who_is_there() -> None:
    layout = get_layout("sbu15")
    joints, noise = torch.randn(2, 3, 8, 15, 2), torch.randn(2, 3, 8, 15, 2)
    joints[0, ..., 1] = 0  # no second body
    joints[1, :, 3] = 0  # a frame without any
    joints[1, :, 5, 4, 0] = 0  # one joint at the origin
    noisy = add_noise(joints, noise, layout)
    there = torch.ones(2, 8, 2, dtype=torch.bool)
    there[0, :, 1] = there[1, 3] = False
    expected = joints + noise * there[:, None, :, None, :]
    assert torch.equal(noisy, expected)
    confidences = add_noise(joints, noise, replace(layout, third="confidence"))
    assert torch.equal(confidences, torch.cat((expected[:, :2], joints[:, 2:]), dim=1))


def test_masked_joints_and_frames_are_zero(dataset: PreparedDataset) -> None:
    view = draw(mask_joints=0.2, mask_joints_probability=0.5, mask_frames=0.25, mask_frames_probability=0.9, **STILL)
    joints, frames = view.masked.all(1), view.masked.all(2)
    assert torch.equal(view.masked, frames[:, :, None] | joints[:, None, :])
    for masked, count, share in ((joints, 3, 0.5), (frames, 2, 0.9)):
        assert set(masked.sum(1).tolist()) == {0, count}
        assert masked.any(1).float().mean().item() == pytest.approx(share, abs=0.03)
        each = masked.float().mean(0) / (share * count / masked.shape[1])
        assert each.sub(1).abs().max() < 0.2  # of all joints and frames alike
    clips, num_frames = joints_of(dataset)
    (seen,) = view.share(slice(0, 6)).derive(clips, num_frames, dataset.layout, ("joint",))
    hidden = view.masked[:6, None, :, :, None].expand_as(clips)
    assert (seen[hidden] == 0).all()
    assert torch.equal(seen[~hidden], clips[~hidden])


def test_resident_clips_are_seen_in_the_same_way(dataset: PreparedDataset) -> None:
    joints, num_frames = joints_of(dataset, 10)
    clips = torch.tensor([7, 2, 2, 0, 9, 5])
    view = draw(6, **MORE)
    resident = view.derive(joints, num_frames, dataset.layout, ("joint", "motion"), clips)
    assert torch.equal(resident, view.derive(joints[clips], num_frames[clips], dataset.layout, ("joint", "motion")))


def test_a_mirror_needs_left_and_right(
    config: Callable[..., Config], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(views=ViewsConfig(mirror_probability=0.5))
    open_data(run)
    read = PreparedDataset._read_description

    def without(self: PreparedDataset) -> None:
        read(self)
        self.layout = replace(self.layout, left_right=())

    monkeypatch.setattr(PreparedDataset, "_read_description", without)
    open_data(config())
    with pytest.raises(ValueError, match=r"views\.mirror_probability: expected 0, as the layout sbu15 of"):
        open_data(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": -0.1}, "views.jitter: expected >= 0, got -0.1"),
        ({"jitter": float("inf")}, "views.jitter: expected a finite number, got inf"),
        ({"scale": (1, float("inf"))}, r"views.scale: expected 0 < least <= most, got \[1, inf\]"),
        ({"scale": (1.2, 0.7)}, r"views.scale: expected 0 < least <= most, got \[1.2, 0.7\]"),
        ({"speed": (0, 1)}, r"views.speed: expected 0 < least <= most, got \[0, 1\]"),
        ({"mask_joints": 1}, r"views.mask_joints: expected in \[0, 1\), got 1"),
        ({"mirror_probability": 2}, r"views.mirror_probability: expected in \[0, 1\], got 2"),
        ({"mask_frames_probability": -1}, r"views.mask_frames_probability: expected in \[0, 1\], got -1"),
    ],
)
def test_views_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewsConfig(**options)
