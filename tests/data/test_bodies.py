"""Which bodies are kept, and whether they are still the same people in the next frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import write_ntu_clip

from ikem.data.bodies import BodySelection, KeepBodies
from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS, RawClip
from ikem.data.prepare import prepare


def person(frames: int, *, at: float = 0.0, wide: float = 0.5, motion: float = 0.0, seed: int = 0) -> np.ndarray:
    """(3, frames, 25): two meters high, as wide as asked for, walking along z by so much in all."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(-1, 1, size=(3, 1, 25)) * np.array([wide / 2, 1, 0.1]).reshape(3, 1, 1)
    pose[:, 0, :2] = np.array([[-wide / 2, wide / 2], [-1, 1], [0, 0]])
    joints = np.repeat(pose, frames, axis=1) + np.array([at, 0, 3]).reshape(3, 1, 1)
    joints[2] += np.linspace(0, motion, frames)[:, None]
    return joints


def clip_of(*people: np.ndarray, ids: np.ndarray | None = None) -> RawClip:
    joints = np.stack(people, axis=-1)
    return RawClip(joints, confidence=joints[0] * 0 + np.arange(1, len(people) + 1), body_ids=ids)


def test_first_is_the_recording_as_it_is() -> None:
    clip = clip_of(person(20), person(20, at=2), person(20, at=4))
    kept = BodySelection(2)(clip)
    assert kept.clip is clip
    assert (kept.left_out, kept.noise) == (1, 0)


def test_bodies_that_are_never_seen_are_not_counted() -> None:
    kept = BodySelection(1)(clip_of(person(20), np.zeros((3, 20, 25))))
    assert (kept.left_out, kept.noise) == (0, 0)


def test_energy_is_the_deviation_over_joints_and_frames() -> None:
    """The one in the middle is seen in two frames alone, and its zeros are no motion."""
    people = [person(20, motion=0.2, seed=1), person(20, at=5, seed=2), person(20, motion=2.0, seed=3)]
    people[1][:, 2:] = 0
    kept = BodySelection(2, "energy")(clip_of(*people))
    published = [sum(body[axis, body.any(axis=(0, 2))].std() for axis in range(3)) for body in people]
    order = np.argsort(published)[::-1]
    assert order.tolist() != [0, 1, 2]
    np.testing.assert_array_equal(kept.clip.joints, np.stack([people[body] for body in order], axis=-1))
    assert kept.clip.confidence is not None
    assert [kept.clip.confidence[0, 0, place] for place in range(3)] == [
        body + 1 if people[body][:, 0].any() else 0 for body in order
    ]
    assert (kept.left_out, kept.noise) == (1, 0)


def seen(joints: np.ndarray, first: int, last: int) -> np.ndarray:
    """The same, seen from one frame to another, the last included."""
    out = np.zeros_like(joints)
    out[:, first : last + 1] = joints[:, first : last + 1]
    return out


class TestDenoised:
    @pytest.mark.parametrize(("frames", "noise"), [(11, 1), (12, 0)])
    def test_length(self, frames: int, noise: int) -> None:
        kept = BodySelection(2, "denoised")(clip_of(seen(person(40, motion=9), 0, frames - 1), person(40, at=2)))
        assert (kept.left_out, kept.noise) == (0, noise)
        assert bool(kept.clip.joints[0, 0, 0, 0] > 1) == bool(noise)  # the other is first

    @pytest.mark.parametrize(("wide", "noise"), [(1.59, 0), (1.61, 1)])
    def test_spread(self, wide: float, noise: int) -> None:
        kept = BodySelection(2, "denoised")(clip_of(person(40, wide=wide, motion=3), person(40, at=2)))
        assert (kept.left_out, kept.noise) == (0, noise)

    @pytest.mark.parametrize(("frames", "noise"), [(69, 0), (70, 1)])
    def test_spread_counts_frames(self, frames: int, noise: int) -> None:
        body = person(100)
        body[0, :frames] *= 4
        assert BodySelection(2, "denoised")(clip_of(body, person(100, at=2))).noise == noise

    def test_somebody_is_left(self) -> None:
        alone = BodySelection(2, "denoised")(clip_of(person(5, wide=9)))
        assert (alone.left_out, alone.noise, alone.clip.joints.any()) == (0, 0, True)
        short = BodySelection(2, "denoised")(clip_of(person(5), person(5, at=2)))
        assert (short.left_out, short.noise, short.clip.joints.shape[3]) == (0, 0, 2)

    def test_who_moves_most_comes_first_and_the_third_takes_a_free_place(self) -> None:
        people = [
            seen(person(60, at=0, motion=1), 0, 29),
            seen(person(60, at=3, motion=4, seed=1), 0, 59),
            seen(person(60, at=6, motion=1, seed=2), 30, 59),
            seen(person(60, at=9, seed=3), 10, 50),
        ]
        kept = BodySelection(2, "denoised")(clip_of(*people))
        assert (kept.left_out, kept.noise) == (1, 0)
        np.testing.assert_array_equal(kept.clip.joints[..., 0], people[1])
        np.testing.assert_array_equal(kept.clip.joints[..., 1], people[0] + people[2])

    def test_frames_that_are_too_wide_are_no_motion(self) -> None:
        wild, calm = person(40, seed=1), person(40, at=3, motion=1.0)
        wild[0, ::4] *= 40
        kept = BodySelection(1, "denoised")(clip_of(wild, calm))
        np.testing.assert_array_equal(kept.clip.joints[..., 0], calm)

    def test_bodies_are_those_of_one_id(self) -> None:
        """The sensor lists them in turns; without ids, each place would hold both."""
        a, b = person(40, motion=1), person(40, at=2, motion=2, seed=1)
        turned = np.arange(40) % 3 == 0
        swapped = [np.where(turned[:, None], b, a), np.where(turned[:, None], a, b)]
        ids = np.where(turned[:, None], [8, 7], [7, 8])
        kept = BodySelection(2, "denoised")(clip_of(*swapped, ids=ids))
        np.testing.assert_array_equal(kept.clip.joints, np.stack((b, a), axis=-1))
        same = BodySelection(2, "denoised")(clip_of(*swapped, ids=ids * 0 + 7))  # ids that tell nobody apart
        assert not np.array_equal(same.clip.joints, kept.clip.joints)


class TestTracking:
    def swapped(self) -> tuple[np.ndarray, np.ndarray, RawClip]:
        """Two people who walk past each other, in another order in every third frame."""
        a, b = person(40, motion=2), person(40, at=1, motion=-2, seed=1)
        turned = (np.arange(40) % 3 == 1)[:, None]
        return a, b, clip_of(np.where(turned, b, a), np.where(turned, a, b))

    def test_by_position(self) -> None:
        a, b, clip = self.swapped()
        kept = BodySelection(2, track=True)(clip)
        np.testing.assert_array_equal(kept.clip.joints, np.stack((a, b), axis=-1))
        assert kept.clip.confidence is not None
        assert [kept.clip.confidence[frame, 0, 0] for frame in range(4)] == [1, 2, 1, 1]  # as it stood in the recording
        assert np.array_equal(BodySelection(2)(clip).clip.joints, clip.joints)

    def test_ids_speak_before_positions(self) -> None:
        """They cross at one place; from there on nearest position is wrong, and the ids know better."""
        a, b = person(40, motion=2), person(40, seed=1)
        b[2] += 1
        a[0], b[0] = a[0] + 3 * (np.arange(40) >= 20)[:, None], b[0]  # a jumps to where it was never seen
        clip = clip_of(a, b, ids=np.tile([3, 4], (40, 1)))
        np.testing.assert_array_equal(BodySelection(2, track=True)(clip).clip.joints, clip.joints)

    def test_lost_and_found_again(self) -> None:
        """Alone in the frame for a while, the second stands first in the recording; a new id does not part a body."""
        a, b = person(40), person(40, at=3, seed=1)
        a[:, 10:20] = 0
        alone = (np.arange(40) // 10 == 1)[:, None]
        ids = np.tile([1, 2], (40, 1))
        ids[20:, 0] = 9
        clip = clip_of(np.where(alone, b, a), np.where(alone, 0, b), ids=np.where(alone, [2, 0], ids))
        for with_ids in (clip, RawClip(clip.joints)):
            np.testing.assert_array_equal(BodySelection(2, track=True)(with_ids).clip.joints, np.stack((a, b), axis=-1))

    def test_another_person_is_not_who_left(self) -> None:
        a, b = seen(person(40), 0, 19), seen(person(40, at=5), 20, 39)
        joints = BodySelection(1, "energy", track=True)(RawClip((a + b)[..., None]))
        assert joints.left_out == 0
        np.testing.assert_array_equal(joints.clip.joints[..., 0], a + b)  # they share the one place there is
        both = BodySelection(2, "denoised", track=True)(RawClip(np.stack((a + b, person(40, at=2)), axis=-1)))
        assert both.left_out == 0

    def test_who_comes_from_elsewhere_is_somebody_new(self) -> None:
        a, b = person(40), seen(person(40, at=5, seed=1), 10, 39)
        a[:, 10:20] = 0
        kept = BodySelection(2, track=True)(RawClip(np.stack((a + seen(b, 10, 19), seen(b, 20, 39)), axis=-1)))
        np.testing.assert_array_equal(kept.clip.joints, np.stack((a, b), axis=-1))

    def test_joints_that_are_lost_do_not_move_a_body(self) -> None:
        """Points in an image, of which some are zero: their mean is that of the others."""
        a, b = (100 * person(40, at=at, seed=seed)[:2] + 1000 for at, seed in ((0, 0), (2, 1)))
        a[:, ::2, :12] = 0
        turned = (np.arange(40) % 3 == 1)[:, None]
        clip = RawClip(np.stack((np.where(turned, b, a), np.where(turned, a, b)), axis=-1))
        np.testing.assert_array_equal(BodySelection(2, track=True)(clip).clip.joints, np.stack((a, b), axis=-1))


@pytest.mark.parametrize("keep", ["energy", "denoised"])
def test_clips_without_a_body_stay_as_they_are(keep: KeepBodies) -> None:
    for clip in (RawClip(np.zeros((3, 20, 25, 0))), RawClip(np.zeros((3, 20, 25, 2)))):
        assert BodySelection(1, keep, track=True)(clip).clip is clip


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("keep", ["energy", "denoised"])
def test_numbers_that_are_not_finite_stay_and_decide_nothing(keep: KeepBodies, track: bool) -> None:
    still, walks = person(20), person(20, at=2, motion=3, seed=1)
    still[1, 3, 4], still[2, 5, 6], walks[0, 7, 8] = np.nan, np.inf, np.nan
    still[:, 9] = np.nan
    kept = BodySelection(2, keep, track)(clip_of(still, walks)).clip.joints
    np.testing.assert_array_equal(kept, np.stack((walks, still), axis=-1))


def test_real_pairs_are_two_people(shared: Path) -> None:
    recordings = FORMATS["ntu60"](shared / "data" / "ntu-samples")
    for source in recordings.discover().sources:
        clip = recordings.read(source)
        if source.name[-4:] in ("A050", "A055"):
            kept = BodySelection(2, "denoised")(clip)
            assert (kept.left_out, kept.noise) == (0, 0)
            np.testing.assert_array_equal(np.sort(kept.clip.joints), np.sort(clip.joints))


def test_prepare_takes_the_options_and_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    people = [person(30), person(30, at=2, motion=3, seed=1), seen(person(30, at=5), 0, 7)]
    write_ntu_clip(tmp_path / "raw", np.stack(people, axis=-1))
    name = "S001C001P001R001A001"
    options = {"frames": 30, "align": "none", "center": "none"}
    first = prepare("ntu60", tmp_path / "raw", tmp_path / "first", bodies=1, **options)
    assert first.notes == [f"1 clips have more than 1 bodies, of which the first were kept: {name}"]
    assert "no clip was left out, but parts of some" in first.to_markdown()
    energy = prepare("ntu60", tmp_path / "raw", tmp_path / "energy", max_bodies=1, keep_bodies="energy", **options)
    assert energy.notes == [f"1 clips have more than 1 bodies, of which those that move most were kept: {name}"]
    denoised = prepare("ntu60", tmp_path / "raw", tmp_path / "denoised", keep_bodies="denoised", **options)
    assert denoised.notes == [f"in 1 clips bodies were taken for noise and left out (how many): {name} (1)"]
    joints = {folder: PreparedDataset(tmp_path / folder).joints[0] for folder in ("first", "energy", "denoised")}
    np.testing.assert_allclose(joints["first"][..., 0], people[0], atol=1e-6)
    np.testing.assert_allclose(joints["energy"][..., 0], people[1], atol=1e-6)
    np.testing.assert_allclose(joints["denoised"], np.stack((people[1], people[0]), axis=-1), atol=1e-6)


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keep_bodies: expected one of \('first', 'energy', 'denoised'\), got 'all'"):
        prepare("ntu60", tmp_path, tmp_path.parent / "out", keep_bodies="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_bodies: 1 is given, and 2 by its other name, bodies"):
        prepare("ntu60", tmp_path, tmp_path.parent / "out", max_bodies=1, bodies=2)
