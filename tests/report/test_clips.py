"""What is shown of a clip follows from what was seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from report.made_clips import make_clip

from ikem.data.formats import RawClip
from ikem.data.preprocess import NoBodyError
from ikem.report.clips import ShownClip, on_stage
from ikem_ext import MODALITIES, get_layout
from ikem_ext.reference import derive_modalities


def recorded(joints, **others) -> ShownClip:
    layout = get_layout("ntu25" if joints.shape[0] == 3 else "coco17")
    return ShownClip.of_recording("clip", RawClip(joints, **others), layout, fps=30.0)


def test_what_is_not_seen_is_left_out():
    joints = make_clip(bodies=3).joints.copy()
    joints[:, 4:6] = 0  # nobody
    joints[..., 1] = 0  # a place that no body takes
    joints[:, 8, 3, 2] = 0  # one joint
    joints[1, 9, 3, 2] = np.inf
    clip = recorded(joints)
    assert clip.joints.shape == (3, 20, 25, 2)
    assert clip.unseen_frames == 2
    assert clip.lost_joints == 2
    lost = np.isnan(clip.joints).any(axis=0)
    assert lost[4:6].all()
    assert lost[[8, 9], 3, 1].all()
    assert lost.sum() == 2 * 25 * 2 + 2


def test_modalities_are_those_that_encoders_see_where_all_that_they_follow_from_is_seen():
    joints = make_clip().joints.copy()
    whole = derive_modalities(torch.tensor(joints)[None], torch.tensor([20]), "ntu25")[:, 0].numpy()
    joints[:, 10] = 0
    clip = recorded(joints)
    known = ~np.isnan(clip.modalities)
    np.testing.assert_allclose(clip.modalities[known], whole[known], atol=1e-6)
    motion = known[MODALITIES.index("motion"), 0, :, 0, 0]
    assert np.flatnonzero(~motion).tolist() == [9, 10]
    assert all(0 < clip.range(name)[1] < np.inf for name in MODALITIES)


def test_points_in_an_image_stand_upright_in_a_plane():
    points = np.random.default_rng(0).uniform(1, 600, size=(2, 7, 17, 1))
    clip = recorded(points, confidence=np.ones((7, 17, 1)))
    assert clip.layout.third == "zero"
    np.testing.assert_allclose(clip.places[0], points[0], rtol=1e-6)
    np.testing.assert_allclose(clip.places[1], -points[1], rtol=1e-6)
    assert not clip.places[2].any()
    axis = clip.modalities[MODALITIES.index("rotation_axis")]  # of bones in a plane: along z, and shown as that
    assert np.linalg.norm(on_stage(axis, clip.layout), axis=0).max() > 1


def test_bodies_that_are_each_centered_stand_side_by_side():
    clip = make_clip(bodies=2)
    assert np.array_equal(clip.places, clip.joints)
    joints = clip.joints - clip.joints[:, :, [clip.layout.root]]
    centered = ShownClip("clip", joints, clip.layout, 20, 30.0)
    assert centered.places[0, ..., 0].max() < centered.places[0, ..., 1].min()
    assert np.array_equal(centered.places[1:], joints[1:])
    assert not centered.modalities[0, :, :, clip.layout.root].any()  # the values stay those of the joints


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_clip_without_a_body_is_refused(value):
    with pytest.raises(NoBodyError, match="clip: no body is ever seen"):
        recorded(np.full((3, 5, 25, 1), value))
