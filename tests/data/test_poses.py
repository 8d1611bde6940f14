"""Poses in the JSON of the tools that estimate them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS, Format, RawClip
from ikem.data.formats.poses import PoseFiles
from ikem.data.prepare import prepare


def points_of(points: int, seed: int = 0) -> np.ndarray:
    """(points, 3): x, y and a confidence."""
    return np.random.default_rng(seed).uniform(size=(points, 3)).round(4)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def read(recordings: Format, name: str) -> RawClip:
    return recordings.read(next(source for source in recordings.discover().sources if source.name == name))


def reader(name: str, raw: Path, labels: Path | None = None) -> PoseFiles:
    format = FORMATS[name]
    assert issubclass(format, PoseFiles)
    return format(raw, labels)


class TestOpenPose:
    def frame(self, *people: tuple[int, np.ndarray]) -> dict[str, Any]:
        """As OpenPose 1.3 and later write it; track -1 is none."""
        return {
            "version": 1.3,
            "people": [
                {
                    "person_id": [track],
                    "pose_keypoints_2d": points.ravel().tolist(),
                    "face_keypoints_2d": [],
                    "hand_left_keypoints_2d": [],
                    "hand_right_keypoints_2d": [],
                    "pose_keypoints_3d": [],
                }
                for track, points in people
            ],
        }

    def test_a_folder_per_clip(self, tmp_path: Path) -> None:
        a, b = points_of(25, 1), points_of(25, 2)
        for number, people in enumerate(([], [(-1, a), (-1, b)], [(-1, b)])):
            write(tmp_path / "wave" / "clip1" / f"clip1_{number:012d}_keypoints.json", self.frame(*people))
        write(tmp_path / "wave" / "clip1" / f"._clip1_{0:012d}_keypoints.json", "what a file system leaves")
        recordings = reader("openpose", tmp_path)
        assert (recordings.layout, recordings.classes) == ("openpose25", ("wave",))
        (source,) = recordings.discover().sources
        assert (source.name, source.label) == ("wave/clip1", 0)
        clip = recordings.read(source)
        assert clip.joints.shape == (2, 3, 25, 2)
        assert not clip.joints[:, 0].any() and not clip.joints[:, 2, :, 1].any()
        np.testing.assert_array_equal(clip.joints[:, 1, :, 1], b[:, :2].T)
        np.testing.assert_array_equal(clip.joints[:, 2, :, 0], b[:, :2].T)
        np.testing.assert_array_equal(clip.confidence[1, :, 0], a[:, 2])
        assert not clip.confidence[0].any()

    def test_people_who_are_tracked_keep_their_place(self, tmp_path: Path) -> None:
        a, b = points_of(18, 1), points_of(18, 2)
        for number, people in enumerate(([(4, a), (7, b)], [(7, b)], [(7, b), (4, a)])):
            write(tmp_path / "clip1" / f"{number}.json", self.frame(*people))
        recordings = reader("openpose", tmp_path)
        assert recordings.layout == "openpose18"
        joints = read(recordings, "clip1").joints
        for frame in (0, 2):
            np.testing.assert_array_equal(joints[:, frame, :, 0], a[:, :2].T)
        for frame in (0, 1, 2):
            np.testing.assert_array_equal(joints[:, frame, :, 1], b[:, :2].T)
        assert not joints[:, 1, :, 0].any()

    def test_several_videos_in_a_folder(self, tmp_path: Path) -> None:
        for folder, video in (("wave", "clip1"), ("wave", "clip2"), ("bow", "clip3")):
            for number in (9, 10):
                points = np.full((25, 3), number + int(video[-1]) * 100)
                write(tmp_path / folder / f"{video}_{number}_keypoints.json", self.frame((-1, points)))
        recordings = reader("openpose", tmp_path)
        assert recordings.classes == ("bow", "wave")
        sources = recordings.discover().sources
        assert [(source.name, source.label) for source in sources] == [
            ("bow/clip3", 0),
            ("wave/clip1", 1),
            ("wave/clip2", 1),
        ]
        assert recordings.read(sources[2]).joints[0, :, 0, 0].tolist() == [209, 210]

    def test_the_folder_itself_is_a_clip(self, tmp_path: Path) -> None:
        write(tmp_path / "mine" / "0_keypoints.json", self.frame((-1, points_of(25))))
        recordings = reader("openpose", tmp_path / "mine")
        assert [(source.name, source.label) for source in recordings.discover().sources] == [("mine", None)]
        assert recordings.classes == ()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"people": [\n', r"1\.json:2: not a JSON file"),
            ("[" * 100_000, r"1\.json: not a JSON file"),
            ("[]", r"1\.json: no frame of OpenPose with people and their pose_keypoints_2d"),
            ({"people": [{}]}, r"1\.json: no frame of OpenPose .*KeyError\('pose_keypoints_2d'\)"),
            ({"people": [{"pose_keypoints_2d": [1, 2]}]}, r"1\.json: no frame of OpenPose"),
            ({"people": [{"pose_keypoints_2d": [1] * 54}]}, r"clip1: frame 2: expected 25 points as before, got 18"),
        ],
    )
    def test_damaged_frames(self, tmp_path: Path, content: Any, message: str) -> None:
        write(tmp_path / "clip1" / "0.json", self.frame((-1, points_of(25))))
        write(tmp_path / "clip1" / "1.json", content)
        with pytest.raises(ValueError, match=message):
            read(reader("openpose", tmp_path), "clip1")


class TestCoco:
    def entry(self, image: Any, points: np.ndarray, **others: Any) -> dict[str, Any]:
        return {"image_id": image, "category_id": 1, "keypoints": points.ravel().tolist(), "score": 2.5, **others}

    def test_results(self, tmp_path: Path) -> None:
        a, b = points_of(17, 1), points_of(17, 2)
        write(tmp_path / "wave" / "1.json", [self.entry(12, b), self.entry(10, a), self.entry(10, b)])
        recordings = reader("coco", tmp_path)
        assert (recordings.layout, recordings.classes, recordings.bodies) == ("coco17", ("wave",), 2)
        clip = read(recordings, "wave/1")
        assert clip.joints.shape == (2, 2, 17, 2)  # every other image was looked at
        np.testing.assert_array_equal(clip.joints[:, 0, :, 0], a[:, :2].T)
        np.testing.assert_array_equal(clip.joints[:, 1, :, 0], b[:, :2].T)
        np.testing.assert_array_equal(clip.confidence[0, :, 1], b[:, 2])
        assert clip.image_size is None

    def test_alphapose_with_tracks_and_frames_without_people(self, tmp_path: Path) -> None:
        a, b = points_of(26, 1), points_of(26, 2)
        a[3, 2] = 5.5  # older versions go beyond 1
        write(
            tmp_path / "1.json",
            [
                self.entry("run/0.jp2", a, idx=[3.0], box=[0, 0, 9, 9]),
                self.entry("run/9.jp2", b, idx=[1.0]),
                self.entry("run/10.jp2", b, idx=[1.0]),
                self.entry("run/10.jp2", a, idx=[3.0]),
            ],
        )
        recordings = reader("coco", tmp_path)
        assert recordings.layout == "halpe26"
        clip = read(recordings, "1")
        assert clip.joints.shape == (2, 11, 26, 2)
        assert [frame for frame in range(11) if clip.joints[:, frame].any()] == [0, 9, 10]
        np.testing.assert_array_equal(clip.joints[:, 10, :, 0], a[:, :2].T)
        assert clip.confidence[0, 3, 0] == 1

    def test_one_track_for_two_people_is_no_track(self, tmp_path: Path) -> None:
        a, b = points_of(17, 1), points_of(17, 2)
        write(tmp_path / "1.json", [self.entry(1, a, idx=0), self.entry(1, b, idx=0), self.entry(2, b, idx=0)])
        joints = read(reader("coco", tmp_path), "1").joints
        np.testing.assert_array_equal(joints[:, 0, :, 0], a[:, :2].T)
        np.testing.assert_array_equal(joints[:, 0, :, 1], b[:, :2].T)
        np.testing.assert_array_equal(joints[:, 1, :, 0], b[:, :2].T)

    def test_annotations(self, tmp_path: Path) -> None:
        points = points_of(17)
        points[:, 2] = np.arange(17) % 3
        images = [{"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480} for number in (1, 2)]
        annotations = [{"id": 5, "image_id": 2, "keypoints": points.ravel().tolist(), "num_keypoints": 11}]
        write(tmp_path / "1.json", {"images": images, "annotations": annotations, "categories": []})
        clip = read(reader("coco", tmp_path), "1")
        assert clip.image_size == (640, 480)
        assert clip.confidence[0, :, 0].tolist() == [float(number % 3 > 0) for number in range(17)]

    @pytest.mark.parametrize(("points", "layout", "kept"), [(133, "coco17", 17), (136, "halpe26", 26)])
    def test_of_whole_bodies_the_body_is_taken(self, tmp_path: Path, points: int, layout: str, kept: int) -> None:
        write(tmp_path / "1.json", [self.entry(1, points_of(points))])
        recordings = reader("coco", tmp_path)
        assert recordings.layout == layout
        np.testing.assert_array_equal(read(recordings, "1").confidence[0, :, 0], points_of(points)[:kept, 2])

    def test_other_skeletons_need_a_name(self, tmp_path: Path) -> None:
        write(tmp_path / "1.json", [self.entry(1, points_of(15))])
        recordings = reader("coco", tmp_path)
        assert recordings.layout is None
        assert read(recordings, "1").joints.shape == (2, 1, 15, 1)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, r"1\.json: no list of image_id and keypoints \(KeyError\('annotations'\)\)"),
            ([{"image_id": 1}], r"1\.json: no list of image_id and keypoints"),
            ([{"image_id": 1, "keypoints": [1, 2, "x"]}], r"1\.json: no list of image_id and keypoints"),
            ([{"image_id": "first", "keypoints": [1, 2, 3]}], "image_id: expected the number of a frame, got 'first'"),
            (
                [{"image_id": f"{video}_1.jpg", "keypoints": [1, 2, 3]} for video in "ab"],
                "image_id: expected the frames of one clip, got those of 'a_', 'b_'",
            ),
            (
                [{"image_id": number, "keypoints": [1, 2, 3]} for number in (139, 285, 581929)],
                "image_id: expected the frames of one clip, got 3 images from 139 to 581929",
            ),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: Any, message: str) -> None:
        write(tmp_path / "1.json", content)
        with pytest.raises(ValueError, match=message):
            read(reader("coco", tmp_path), "1")

    def test_nobody_is_ever_seen(self, tmp_path: Path) -> None:
        write(tmp_path / "1.json", [])
        assert read(reader("coco", tmp_path), "1").joints.shape == (2, 0, 0, 0)


class TestMediaPipe:
    def landmarks(self, seed: int, points: int = 33) -> tuple[list[dict[str, float]], np.ndarray]:
        values = np.random.default_rng(seed).normal(size=(points, 4)).round(4)
        values[:, 3] = np.abs(values[:, 3]).clip(0, 1)
        return [dict(zip(("x", "y", "z", "visibility"), row, strict=True)) for row in values.tolist()], values

    def test_world_landmarks_are_turned_upright(self, tmp_path: Path) -> None:
        image, _ = self.landmarks(1)
        world, values = self.landmarks(2)
        frames = [
            {"pose_landmarks": None, "pose_world_landmarks": None},
            {"pose_landmarks": image, "pose_world_landmarks": world, "face_landmarks": image},
            {"pose_landmarks": [], "pose_world_landmarks": []},
        ]
        write(tmp_path / "wave" / "1.json", frames)
        recordings = reader("mediapipe", tmp_path)
        assert (recordings.layout, recordings.classes, recordings.bodies) == ("mediapipe33", ("wave",), 1)
        clip = read(recordings, "wave/1")
        assert clip.joints.shape == (3, 3, 33, 1)
        np.testing.assert_array_equal(clip.joints[:, 1, :, 0], (values[:, :3] * (-1, -1, 1)).T)
        np.testing.assert_array_equal(clip.confidence[1, :, 0], values[:, 3])
        assert not clip.joints[:, (0, 2)].any()

    def test_landmarks_in_the_image_are_points_in_the_plane(self, tmp_path: Path) -> None:
        image, values = self.landmarks(1)
        write(tmp_path / "1.json", [image])
        clip = read(reader("mediapipe", tmp_path), "1")
        np.testing.assert_array_equal(clip.joints[:, 0, :, 0], values[:, :2].T)
        np.testing.assert_array_equal(clip.confidence[0, :, 0], values[:, 3])

    def test_all_ways_to_write_a_frame(self, tmp_path: Path) -> None:
        person, values = self.landmarks(1)
        without_visibility = [[point["x"], point["y"], point["z"]] for point in person]
        ways = [
            {"poseWorldLandmarks": person},
            {"world_landmarks": [person]},
            {"worldLandmarks": [person], "landmarks": [person]},
            {"pose_world_landmarks": {"landmark": person}, "left_hand_world_landmarks": person[:21]},
            {"pose_world_landmarks": [without_visibility], "timestamp": 33},
        ]
        write(tmp_path / "1.json", {"frames": ways})
        clip = read(reader("mediapipe", tmp_path), "1")
        for frame in range(len(ways)):
            np.testing.assert_array_equal(clip.joints[1, frame, :, 0], -values[:, 1])
        assert (clip.confidence[4] == 1).all()

    def test_a_folder_per_clip_and_several_people(self, tmp_path: Path) -> None:
        (a, first), (b, second) = self.landmarks(1), self.landmarks(2)
        for number, people in ((9, [a]), (10, [a, b])):
            write(tmp_path / "wave" / "clip1" / f"frame{number}.json", {"pose_world_landmarks": people})
        clip = read(reader("mediapipe", tmp_path), "wave/clip1")
        assert clip.joints.shape == (3, 2, 33, 2)
        np.testing.assert_array_equal(clip.joints[2, :, :, 0], [first[:, 2]] * 2)
        np.testing.assert_array_equal(clip.joints[2, 1, :, 1], second[:, 2])
        assert not clip.joints[:, 0, :, 1].any()

    def test_a_file_and_a_folder_of_one_name(self, tmp_path: Path) -> None:
        person, _ = self.landmarks(1)
        write(tmp_path / "wave" / "1.json", [person])
        write(tmp_path / "wave" / "1" / "0.json", {"landmarks": person})
        with pytest.raises(ValueError, match=r"raw: .*wave/1 and .*wave/1\.json are both the clip wave/1"):
            reader("mediapipe", tmp_path)

    def test_hands(self, tmp_path: Path) -> None:
        hand, values = self.landmarks(1, points=21)
        for point in hand:
            del point["visibility"]
        write(tmp_path / "1.json", [{"multi_hand_landmarks": [{"landmark": hand}]}])
        recordings = reader("mediapipe", tmp_path)
        assert recordings.layout == "hand21"
        np.testing.assert_array_equal(read(recordings, "1").joints[0, 0, :, 0], values[:, 0])

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (
                {"time": 3},
                r"1\.json: frame 2: no landmarks of MediaPipe .*expected landmarks of one kind, got \['time'\]",
            ),
            (
                {"left_hand_landmarks": [], "right_hand_landmarks": []},
                r"1\.json: frame 2: no landmarks .*got \['left_hand_landmarks', 'right_hand_landmarks'\]",
            ),
            ({"landmarks": [{"x": 1}]}, r"1\.json: frame 2: no landmarks .*expected world landmarks"),
            ({"world_landmarks": [{"x": 1}]}, r"1\.json: frame 2: no landmarks of MediaPipe \(KeyError\('y'\)\)"),
            ({"world_landmarks": [[1, 2]]}, r"1\.json: frame 2: no landmarks of MediaPipe"),
            ("wave", r"1\.json: frame 2: no landmarks of MediaPipe"),
            ({"world_landmarks": [[1, 2, 3]] * 21}, r"1\.json: frame 2: expected 33 points as before, got 21"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, frame: Any, message: str) -> None:
        person, _ = self.landmarks(1)
        write(tmp_path / "1.json", [{"world_landmarks": person}, frame])
        with pytest.raises(ValueError, match=message):
            read(reader("mediapipe", tmp_path), "1")


class TestPrepared:
    """What the readers give is what preprocessing takes."""

    def test_coco_with_a_table(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for name in ("1", "2"):
            entries = [
                {"image_id": f"{frame}.jpg", "keypoints": rng.uniform(50, 400, size=51).round(1).tolist()}
                for frame in (0, 1, 3, 4)
            ]
            write(tmp_path / "raw" / f"{name}.json", entries)
        (tmp_path / "labels.csv").write_text("name,label,split\n1,wave,train\n2,bow,test\n")
        summary = prepare(
            "coco", tmp_path / "raw", tmp_path / "out", frames=8, labels=tmp_path / "labels.csv", max_bodies=1
        )
        assert "2 frames without any body in 2 clips were interpolated" in summary.notes
        data = PreparedDataset(tmp_path / "out")
        assert (data.layout.name, data.layout.third, data.classes) == ("coco17", "zero", ["bow", "wave"])
        assert data.joints.shape == (2, 3, 8, 17, 1)
        assert data.num_frames.tolist() == [5, 5]
        assert not data.joints[:, 2].any() and data.joints[:, :2].any()
        assert [data.split("given", part).tolist() for part in ("train", "test")] == [[0], [1]]

    @pytest.mark.parametrize("world", [True, False])
    def test_mediapipe_without_labels(self, tmp_path: Path, world: bool) -> None:
        """Upright in the picture is upright in the prepared data, in space and in the plane."""
        upright = [
            {"x": 0.01 * point, "y": 0.02 * point, "z": 0.001 * point, "visibility": 1} for point in range(1, 34)
        ]
        key = "pose_world_landmarks" if world else "pose_landmarks"
        write(tmp_path / "raw" / "1.json", [{key: upright}] * 5)
        prepare("mediapipe", tmp_path / "raw", tmp_path / "out", frames=4)
        data = PreparedDataset(tmp_path / "out")
        assert (data.layout.name, data.layout.third) == ("mediapipe33", "depth" if world else "zero")
        assert data.labels.tolist() == [-1]
        assert (np.diff(data.joints[0, 1, 0, :, 0]) < 0).all()  # MediaPipe's y goes down
        assert data.joints[:, 2].any() == world

    def test_only_poses_have_tables(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="labels: expected none, as recordings of sbu say themselves"):
            prepare("sbu", tmp_path, tmp_path / "out", labels=tmp_path / "labels.csv")


class TestLabels:
    def clips(self, tmp_path: Path, *names: str) -> Path:
        for name in names:
            points = points_of(17, seed=len(name)).ravel().tolist()
            write(tmp_path / "raw" / f"{name}.json", [{"image_id": 1, "keypoints": points}])
        return tmp_path / "raw"

    def test_folders_are_classes(self, tmp_path: Path) -> None:
        raw = self.clips(tmp_path, "1", "wave/2", "subject3/bow/4")
        recordings = reader("coco", raw)
        assert recordings.classes == ("bow", "wave")
        assert [(source.name, source.label) for source in recordings.discover().sources] == [
            ("1", None),
            ("subject3/bow/4", 0),
            ("wave/2", 1),
        ]

    def test_a_table_says_what_clips_are(self, tmp_path: Path) -> None:
        raw = self.clips(tmp_path, "camera1/1", "camera1/2")
        (raw / "rest.zip").touch()
        (raw / ".hidden.json").touch()
        (tmp_path / "labels.csv").write_text(
            "name,label,subject,split,fps\ncamera1/1.json,bow,ann,train,30\n3,wave,bob,test,30\n"
        )
        recordings = reader("coco", raw, tmp_path / "labels.csv")
        assert recordings.classes == ("bow", "wave")
        first, second = recordings.discover().sources
        assert (first.label, first.subject, first.parts) == (0, "ann", {"given": "train"})
        assert (second.label, second.subject, second.parts) == (None, None, {})
        assert recordings.discover().skipped == {
            "an archive: if it holds recordings, unpack it": ["rest.zip"],
            f"listed in {tmp_path / 'labels.csv'}, but not among the recordings": ["3"],
        }
        assert recordings.notes == [f"columns of {tmp_path / 'labels.csv'} that are not used: fps"]
