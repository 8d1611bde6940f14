"""Each reader on recordings as their authors distribute them, and on damaged ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from recordings import write_msr_clip, write_nw_ucla_clip, write_sbu_clip, write_utd_clip

from ikem.data.formats import FORMATS
from ikem.data.formats.ntu import find_missing_lists, read_missing_lists
from ikem_ext import LAYOUTS


def joints_of(frames: int, joints: int, bodies: int = 1, seed: int = 0) -> np.ndarray:
    """(3, frames, joints, bodies), rounded so that text files hold them exactly."""
    return np.random.default_rng(seed).normal(size=(3, frames, joints, bodies)).round(4)


DATA_SETS = [name for name, format in FORMATS.items() if hasattr(format, "classes")]  # the others' files say it


@pytest.mark.parametrize("name", DATA_SETS)
def test_formats_name_their_layout_and_classes(name: str) -> None:
    format = FORMATS[name]
    assert format.layout in LAYOUTS
    assert len(set(format.classes)) == len(format.classes)
    assert all(label == label.strip() and label for label in format.classes)


def test_numbers_of_classes() -> None:
    counts = {name: len(FORMATS[name].classes) for name in DATA_SETS}
    assert counts == {
        "ntu60": 60,
        "ntu120": 120,
        "utd-mhad": 27,
        "nw-ucla": 10,
        "sbu": 8,
        "msr-action3d": 20,
        "pku-mmd": 51,
        "shrec17": 14,
        "shrec17-28": 28,
    }
    assert FORMATS["ntu120"].classes[:60] == FORMATS["ntu60"].classes
    assert (FORMATS["ntu60"].classes[0], FORMATS["ntu60"].classes[59]) == (
        "drink water",
        "walking apart from each other",
    )
    assert FORMATS["ntu120"].classes[60] == "put on headphone"


class TestNtu:
    def test_names_tell_all(self, shared: Path) -> None:
        sources, skipped = FORMATS["ntu60"](shared / "data" / "ntu-samples").discover()
        assert len(sources) == 9
        assert not skipped
        (source,) = (source for source in sources if source.name == "S017C003P020R002A055")
        assert (source.setup, source.camera, source.subject, source.replication, source.label) == (17, 3, 20, 2, 54)

    def test_all_bodies_are_read_in_the_order_of_the_file(self, shared: Path) -> None:
        recordings = FORMATS["ntu120"](shared / "data" / "ntu-samples")
        sources = {source.name: source for source in recordings.discover().sources}
        joints = recordings.read(sources["S001C001P001R001A050"]).joints
        assert joints.shape == (3, 74, 25, 2)
        assert joints[0, 0, 0].tolist()[0] == -0.8514767
        assert recordings.read(sources["S001C002P006R001A008"]).joints.shape == (3, 71, 25, 0)

    def test_what_is_left_out(self, tmp_path: Path) -> None:
        for name in ("S001C001P001R001A060", "S018C001P008R001A061", "S001C001P001R001A121", "s001"):
            (tmp_path / f"{name}.skeleton").touch()
        for format, others in (("ntu60", ["S001C001P001R001A121", "S018C001P008R001A061"]), ("ntu120", None)):
            sources, skipped = FORMATS[format](tmp_path).discover()
            count = len(FORMATS[format].classes)
            assert len(sources) == 4 - 1 - len(others or ["S001C001P001R001A121"])
            assert skipped == {
                "the file is not named like S001C001P001R001A001.skeleton": ["s001.skeleton"],
                f"the action is not one of the {count} of {format}": others or ["S001C001P001R001A121"],
            }

    def test_the_same_clip_twice(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "S001C001P001R001A001.skeleton").touch()
        with pytest.raises(ValueError, match=r"two files hold the clip S001C001P001R001A001: .*a/S.* and .*b/S"):
            FORMATS["ntu60"](tmp_path).discover()

    def test_lists_of_missing_skeletons(self, shared: Path, tmp_path: Path) -> None:
        lists = sorted((shared / "data" / "ntu-samples").glob("*.txt"))
        assert [len(read_missing_lists([path])) for path in lists] == [535, 302]
        assert "S001C002P005R002A008" in read_missing_lists(lists)
        (tmp_path / "list.txt").write_text("nothing here\n")
        with pytest.raises(ValueError, match=r"missing: .*list\.txt names no clip"):
            read_missing_lists([tmp_path / "list.txt"])

    def test_lists_are_found_by_what_they_hold(self, shared: Path, tmp_path: Path) -> None:
        official = sorted((shared / "data" / "ntu-samples").glob("*.txt"))
        assert find_missing_lists(shared / "data" / "ntu-samples") == official
        names = (
            "ntu_rgb120_missings.txt",
            "Missing Skeletons.TXT",
            "available.txt",
            "missing.skeleton",
            ".missing.txt",
        )
        for name in names:
            (tmp_path / name).write_text("S001C002P005R002A008\n")
        (tmp_path / "missing_pages.txt").write_text("of the manual\n")
        assert [path.name for path in find_missing_lists(tmp_path)] == sorted(names[:2])

    def test_what_the_lists_do_not_name(self, shared: Path, tmp_path: Path) -> None:
        listed = {
            name: read_missing_lists([path])
            for name, path in zip(("535", "302"), sorted((shared / "data" / "ntu-samples").glob("*.txt")), strict=True)
        }
        ntu60, ntu120 = FORMATS["ntu60"](tmp_path), FORMATS["ntu120"](tmp_path)
        assert ntu60.unlisted(listed["302"]) is ntu60.unlisted(listed["535"]) is ntu120.unlisted(listed["535"]) is None
        assert "list 302 clips" in ntu60.unlisted(set())
        assert "list 535 clips" in ntu120.unlisted(set())
        assert "of which 233 may still be in" in ntu120.unlisted(listed["302"])


class TestUtdMhad:
    def test_real_clips(self, shared: Path) -> None:
        recordings = FORMATS["utd-mhad"](shared / "data" / "utd-mhad")
        sources, skipped = recordings.discover()
        assert (len(sources), skipped) == (861, {})
        source = next(source for source in sources if source.name == "a27_s8_t3")
        assert (source.label, source.subject, source.replication) == (26, 8, 3)
        joints = recordings.read(source).joints
        content = scipy.io.loadmat(source.path)["d_skel"]
        assert joints.shape == (3, content.shape[2], 20, 1)
        assert joints[1, 5, 0, 0] == content[0, 1, 5]

    def test_heads_are_above_feet(self, shared: Path) -> None:
        recordings = FORMATS["utd-mhad"](shared / "data" / "utd-mhad")
        names = LAYOUTS["utd20"].joint_names
        joints = recordings.read(recordings.discover().sources[0]).joints
        assert (joints[1, :, names.index("head")] > joints[1, :, names.index("left_foot")] + 1).all()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no MATLAB file with the array d_skel"),
            (b"rubbish" * 100, "no MATLAB file with the array d_skel"),
            ({"skeleton": np.zeros((20, 3, 5))}, r"no MATLAB file with the array d_skel \(KeyError"),
            (
                {"d_skel": np.zeros((25, 3, 5))},
                r"d_skel must be a float array \(20, 3, frames\), got float64 \(25, 3, 5\)",
            ),
            ({"d_skel": np.zeros((20, 3, 5), np.int16)}, r"d_skel must be a float array .*, got int16"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: Any, message: str) -> None:
        path = tmp_path / "a1_s1_t1_skeleton.mat"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            scipy.io.savemat(path, content)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"):
            read_only_clip("utd-mhad", tmp_path)

    def test_truncated_file(self, tmp_path: Path) -> None:
        path = write_utd_clip(tmp_path, joints_of(30, 20))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match="no MATLAB file with the array d_skel"):
            read_only_clip("utd-mhad", tmp_path)


def read_only_clip(name: str, raw: Path) -> np.ndarray:
    recordings = FORMATS[name](raw)
    (source,) = recordings.discover().sources
    return recordings.read(source).joints


class TestSbu:
    def test_bones_keep_their_lengths(self, shared: Path) -> None:
        """Only in true meters: as stored, in shares of the image, they vary several times as much."""
        recordings = FORMATS["sbu"](shared / "data" / "sbu-interaction")
        sources, _ = recordings.discover()
        assert len(sources) == 282
        clips = [recordings.read(source).joints for source in sources]
        names = LAYOUTS["sbu15"].joint_names
        for a, b in (("left_elbow", "left_hand"), ("right_knee", "right_foot"), ("left_shoulder", "right_shoulder")):
            bones = [clip[:, :, names.index(a)] - clip[:, :, names.index(b)] for clip in clips]
            lengths = [np.linalg.norm(bone, axis=0) for bone in bones]
            assert 0.2 < np.mean([length.mean() for length in lengths]) < 0.5
            assert np.median([length.std(axis=0) / length.mean(axis=0) for length in lengths]) < 0.02
        joints = np.concatenate(clips, axis=1)
        assert (joints[1, :, names.index("head")] > joints[1, :, names.index("left_foot")] + 0.5).mean() > 0.99

    def test_classes_are_what_people_do(self, shared: Path) -> None:
        recordings = FORMATS["sbu"](shared / "data" / "sbu-interaction")
        distances: dict[str, list[np.ndarray]] = {name: [] for name in recordings.classes}
        for source in recordings.discover().sources:
            torso = recordings.read(source).joints[:, :, 2]
            distances[recordings.classes[source.label]].append(np.linalg.norm(torso[..., 0] - torso[..., 1], axis=0))
        change = {name: np.mean([clip[-1] - clip[0] for clip in clips]) for name, clips in distances.items()}
        assert min(change, key=change.__getitem__) == "approaching"
        assert max(change, key=change.__getitem__) == "departing"
        closest = {name: np.mean([clip.min() for clip in clips]) for name, clips in distances.items()}
        assert min(closest, key=closest.__getitem__) == "hugging"

    def test_names_tell_all(self, tmp_path: Path) -> None:
        joints = joints_of(4, 15, 2)
        write_sbu_clip(tmp_path, joints, pair="s03s06", action=8, repetition=2)
        recordings = FORMATS["sbu"](tmp_path)
        (source,) = recordings.discover().sources
        assert (source.name, source.label, source.subject, source.replication) == ("s03s06/08/002", 7, 3, 2)
        np.testing.assert_allclose(recordings.read(source).joints, joints, atol=1e-4)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", ":1: the file is empty"),
            (b"1,2,3\n", ":1: expected 91 numbers, got 3 fields"),
            (b",".join([b"1"] * 91) + b"\n" + b",".join([b"x"] * 91), ":2: could not convert string to float: 'x'"),
            (b"\xff\x00" * 50, ":1: expected 91 numbers"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = write_sbu_clip(tmp_path, joints_of(4, 15, 2))
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path)) + message):
            read_only_clip("sbu", tmp_path)


class TestNwUcla:
    def test_names_tell_all(self, tmp_path: Path) -> None:
        joints = joints_of(4, 20)
        write_nw_ucla_clip(tmp_path, joints, action=12, subject=10, execution=3, view=2)
        recordings = FORMATS["nw-ucla"](tmp_path)
        (source,) = recordings.discover().sources
        assert (source.name, source.label, source.subject) == ("a12_s10_e03_v02", 9, 10)
        assert (source.camera, source.replication) == (2, 3)
        assert recordings.classes[source.label] == "carry"
        np.testing.assert_array_equal(recordings.read(source).joints, joints)

    def test_actions_that_do_not_exist_are_left_out(self, tmp_path: Path) -> None:
        write_nw_ucla_clip(tmp_path, joints_of(4, 20), action=8, label=7)
        (tmp_path / "a07_s01_e00_v01.json").touch()
        (tmp_path / "statistics.json").touch()
        sources, skipped = FORMATS["nw-ucla"](tmp_path).discover()
        assert [source.label for source in sources] == [6]
        assert skipped == {
            "the action is not one of the 10 of nw-ucla": ["a07_s01_e00_v01"],
            "the file is not named like a01_s01_e00_v01.json": ["statistics.json"],
        }

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no JSON file with label and skeletons"),
            (b"\xff\xfe\x00", "no JSON file with label and skeletons"),
            (b'{"label": "1", "skeletons": [[[0, 0, 0', "no JSON file with label and skeletons"),
            (b"[" * 100_000, "no JSON file with label and skeletons"),
            (b"[1, 2]", "no JSON file with label and skeletons"),
            (b'{"label": "1"}', r"no JSON file with label and skeletons .*KeyError\('skeletons'\)"),
            (b'{"label": "one", "skeletons": []}', "no JSON file with label and skeletons .*'one'"),
            (b'{"label": "1", "skeletons": [[[0, 0, 0]], [[0, 0]]]}', "no JSON file with label and skeletons"),
            (b'{"label": "1", "skeletons": []}', r"skeletons must have the shape \(frames, 20, 3\), got \(0,\)"),
            (json.dumps({"label": "1", "skeletons": [[[0, 0, 0]] * 25]}), r"got \(1, 25, 3\)"),
            (
                json.dumps({"label": "2", "skeletons": [[[0, 0, 0]] * 20]}),
                "label is 2, but the file's name says class 1",
            ),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: bytes | str, message: str) -> None:
        path = tmp_path / "a01_s01_e00_v01.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
            read_only_clip("nw-ucla", tmp_path)


class TestMsrAction3d:
    def test_names_tell_all(self, tmp_path: Path) -> None:
        joints = joints_of(4, 20)
        write_msr_clip(tmp_path, joints, action=20, subject=7, execution=3)
        recordings = FORMATS["msr-action3d"](tmp_path)
        (source,) = recordings.discover().sources
        assert (source.name, source.label, source.subject, source.replication) == ("a20_s07_e03", 19, 7, 3)
        np.testing.assert_array_equal(recordings.read(source).joints, joints)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", ":1: the file is empty"),
            ("1 2 3 4\n" * 30, ":30: the last frame has 10 of 20 joints"),
            ("1 2 3 4\n1 2 3\n", ":2: expected 4 numbers, got 3 fields"),
            ("1 2 3 4\n1 2 3 4\n1 2 here 4\n", ":3: could not convert string to float: 'here'"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, content: str, message: str) -> None:
        path = write_msr_clip(tmp_path, joints_of(4, 20))
        path.write_text(content)
        with pytest.raises(ValueError, match=re.escape(str(path)) + message):
            read_only_clip("msr-action3d", tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_recordings_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"raw: expected the recordings of {name}, but .*nowhere does not exist"):
        FORMATS[name](tmp_path / "nowhere")
