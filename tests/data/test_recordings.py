"""Recordings of every kind, read by their files alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from recordings import write_msr_clip, write_npz, write_nw_ucla_clip, write_sbu_clip, write_shrec_clip, write_utd_clip

from ikem.data.dataset import PreparedDataset
from ikem.data.formats import FORMATS
from ikem.data.prepare import prepare
from ikem.data.recipe import Recipe
from ikem.data.recordings import read_recordings
from ikem_ext import get_layout

SINGLE_FILES = {
    "utd-mhad": (write_utd_clip, 20, 1),
    "nw-ucla": (write_nw_ucla_clip, 20, 1),
    "sbu": (write_sbu_clip, 15, 2),
    "msr-action3d": (write_msr_clip, 20, 1),
    "shrec17": (write_shrec_clip, 22, 1),
}


def recorded(joints: int, bodies: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 9, joints, bodies)).round(4)


@pytest.mark.parametrize("name", ["S001C001P001R001A001.skeleton", "mine.skeleton"])
def test_a_file_of_ntu_whatever_its_name(shared: Path, tmp_path: Path, name: str) -> None:
    samples = shared / "data" / "ntu-samples"
    first = FORMATS["ntu60"](samples).discover().sources[0]
    shutil.copy(first.path, tmp_path / name)
    (found,) = read_recordings(tmp_path / name)
    assert (found.name, found.layout) == (name.removesuffix(".skeleton"), get_layout("ntu25"))
    assert np.array_equal(found.clip.joints, FORMATS["ntu60"](samples).read(first).joints)


@pytest.mark.parametrize("format", SINGLE_FILES)
def test_single_files_tell_their_format(tmp_path: Path, format: str) -> None:
    write, joints, bodies = SINGLE_FILES[format]
    file = write(tmp_path, recorded(joints, bodies))
    guessed, named = (list(read_recordings(file, format=asked)) for asked in (None, format))
    assert len(guessed) == 1
    assert guessed[0].layout == named[0].layout == get_layout(FORMATS[format].layout)
    assert np.array_equal(guessed[0].clip.joints, named[0].clip.joints)
    (of_folder,) = read_recordings(tmp_path)
    assert np.array_equal(of_folder.clip.joints, named[0].clip.joints)


def test_arrays_of_many_clips(tmp_path: Path) -> None:
    joints = np.stack([recorded(15), 2 * recorded(15)])
    file = write_npz(tmp_path, joints=joints, num_frames=np.array([9, 4]), layout=np.array("sbu15"))
    found = list(read_recordings(file))
    assert [(clip.name, clip.clip.joints.shape) for clip in found] == [("0", (3, 9, 15, 1)), ("1", (3, 4, 15, 1))]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bad.skeleton").write_text("3\nhello\n")
    for file, format, said in (
        ("absent", None, "there is no"),
        ("notes.txt", None, "is no recording of ntu60"),
        ("bad.skeleton", None, "bad.skeleton"),
        ("notes.txt", "kinect", "format: expected one of"),
    ):
        with pytest.raises(ValueError, match=said):
            list(read_recordings(tmp_path / file, format=format))
    file = write_npz(tmp_path, joints=recorded(7)[None], num_frames=np.array([9]))
    with pytest.raises(ValueError, match="does not name its layout"):
        list(read_recordings(file, format="npz"))


def test_a_recipe_makes_what_prepare_made(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    files = [write_utd_clip(folder, (trial + 1) * recorded(20), trial=trial) for trial in (1, 2)]
    prepare("utd-mhad", folder, tmp_path / "data", frames=7, center="first_frame", scale="body")
    dataset = PreparedDataset(tmp_path / "data")
    recipe = Recipe.of(dataset)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for file, joints in zip(files, dataset.joints, strict=True):
        (found,) = read_recordings(file)
        made = recipe(found.clip, found.layout)
        assert np.array_equal(made.joints, joints)
        assert made.num_frames == 9


def test_a_recipe_refuses_what_does_not_fit(tmp_path: Path) -> None:
    write_utd_clip(tmp_path, recorded(20))
    prepare("utd-mhad", tmp_path, tmp_path / "data", frames=7)
    recipe = Recipe.of(PreparedDataset(tmp_path / "data"))
    (found,) = read_recordings(write_utd_clip(tmp_path, recorded(20)))
    with pytest.raises(ValueError, match="expected joints in space, got points in an image"):
        recipe(found.clip.__class__(found.clip.joints[:2]), found.layout)
    with pytest.raises(ValueError, match="hand22"):
        recipe(found.clip.__class__(recorded(22)), get_layout("hand22"))
