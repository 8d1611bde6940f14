"""`ikem show` finds the clips that are asked for, and says in one sentence what it cannot show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import write_npz, write_ntu_clip, write_shrec_clip, write_utd_clip

from ikem.cli import main
from ikem.config import EncoderConfig
from ikem.data.bodies import BodySelection
from ikem.data.dataset import Clip, write_dataset
from ikem.data.preprocess import Preprocessing
from ikem.data.recipe import Recipe
from ikem.encoders import build_encoder
from ikem.use.classifier import ActionClassifier, Classifier, load_classifier, save_classifier
from ikem.use.show import show
from ikem_ext import get_layout

CLASSES = ["wave", "sit down"]


def make_joints(joints: int = 25, *, frames: int = 12, bodies: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, frames, joints, bodies))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder in which the command is given, beside one of recordings."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    clips = [Clip(f"A{i % 2:02d}R{i:02d}", i % 2, 1, None, None, None, 20 + i) for i in range(10)]
    joints = [make_joints(frames=8, seed=i).astype(np.float32) for i in range(10)]
    joints[9][:] = 0
    parts = {"train": list(range(5)), "test": list(range(5, 10))}
    write_dataset(
        tmp_path / "data", joints=joints, clips=clips, classes=CLASSES, layout=get_layout("ntu25"), source="npz",
        preprocessing={}, protocols={"cross-subject": parts},
    )  # fmt: skip
    return tmp_path / "data"


def contents(page: Path) -> list[dict]:
    """The clips that a page carries."""
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="clips">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)["clips"]


def refusal(capsys, *arguments: object) -> str:
    """What the command says when it fails, in one line."""
    with pytest.raises(SystemExit) as error:
        main(["show", *map(str, arguments)])
    assert error.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    return said[0].removeprefix("ikem show: error: ")


def test_a_recording_becomes_a_page_of_its_name(here, tmp_path, capsys):
    main(["show", str(write_utd_clip(tmp_path, make_joints(20)))])
    assert capsys.readouterr().out == "show: a1_s1_t1_skeleton.html\n"
    (clip,) = contents(here / "a1_s1_t1_skeleton.html")
    assert (clip["name"], clip["frames"], clip["bodies"], clip["fps"]) == ("a1_s1_t1", 12, 1, 30)


def test_a_folder_becomes_a_page_of_its_clips_and_says_what_is_not_seen(here, tmp_path, capsys):
    for action in (1, 2, 3):
        joints = make_joints(bodies=2, seed=action)
        joints[:, 3:5] = 0
        joints *= action != 2
        write_ntu_clip(tmp_path, joints, name=f"S001C001P001R001A00{action}.skeleton")
    show(str(tmp_path), output=here / "all.html")
    assert [clip["name"][-4:] for clip in contents(here / "all.html")] == ["A001", "A003"]
    said = capsys.readouterr().out
    assert "show: left out S001C001P001R001A002: no body is ever seen" in said
    assert "S001C001P001R001A001: no body in 2 of 12 frames, 0 joints lost" in said
    show(str(tmp_path), output=here / "one.html", clips=1)
    assert len(contents(here / "one.html")) == 1
    assert "holds more clips than the 1 that are shown" in capsys.readouterr().out


@pytest.mark.parametrize("clip", ["A01R03", "3"])
def test_a_clip_of_a_data_set_is_found_by_name_or_number(here, dataset, clip):
    show(f"{dataset}:{clip}")
    (found,) = contents(here / f"{clip}.html")
    assert (found["name"], found["label"], found["recorded"]) == ("A01R03", "sit down", 23)
    assert found["fps"] == pytest.approx(30 * 8 / 23)


def test_clips_of_a_data_set_are_of_all_classes(here, dataset, capsys):
    show(str(dataset), clips=4)
    assert [clip["label"] for clip in contents(here / "data.html")] == ["wave", "wave", "sit down"]
    said = capsys.readouterr().out
    assert "4 of the 10 clips" in said
    assert "left out A01R09: no body is ever seen" in said


def test_a_clip_of_many_in_a_file(here, tmp_path):
    layout = get_layout("ntu25")
    arrays = {
        "joints": np.stack([make_joints(seed=i) for i in range(3)]),
        "labels": np.array([0, 1, 0]),
        "num_frames": np.full(3, 12),
    }
    more = {"class_names": np.array(CLASSES), "names": np.array(["2", "b", "c"]), "joint_names": layout.joint_names}
    file = write_npz(tmp_path, **arrays, **more)
    for clip, name in (("b", "b"), ("2", "2"), ("1", "b")):  # a name goes before a number
        show(f"{file}:{clip}", output=here / "page.html", layout="ntu25")
        assert [found["name"] for found in contents(here / "page.html")] == [name]


def test_says_what_clips_are_taken_for(here, tmp_path, dataset, capsys):
    steps = Preprocessing(frames=8, bodies=1, center="frame", align="none", lost_frames="interpolate")
    config, recipe = EncoderConfig(base_width=4, feature_width=8), Recipe(get_layout("ntu25"), steps, BodySelection(1))
    torch.manual_seed(0)
    streams = {name: Classifier(build_encoder(config, recipe.layout), 2) for name in ("joint", "motion")}
    file = tmp_path / "classifier.safetensors"
    save_classifier(file, ActionClassifier(streams, config, CLASSES, recipe))
    classifier = load_classifier(file)

    joints = torch.from_numpy(make_joints(frames=8, seed=3).astype(np.float32))[None]
    with torch.inference_mode():
        expected = classifier(joints, torch.tensor([23]))[0].tolist()
    show(f"{dataset}:3", output=here / "page.html", classifier=file)
    guesses = dict(contents(here / "page.html")[0]["guesses"])
    assert guesses == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-4)

    recording = write_ntu_clip(tmp_path, make_joints(bodies=2))
    show(str(recording), output=here / "page.html", classifier=file)
    assert sum(share for _, share in contents(here / "page.html")[0]["guesses"]) == pytest.approx(1, abs=1e-3)

    (here / "page.html").unlink()
    hand = write_shrec_clip(tmp_path, make_joints(22))
    assert "does not fit: " in refusal(capsys, hand, "--classifier", file)
    assert "checkpoint: " in refusal(capsys, hand, "--classifier", recording)
    assert not list(here.iterdir())


def test_a_recording_becomes_an_animation(here, tmp_path):
    show(str(write_utd_clip(tmp_path, make_joints(20, frames=3))), output=here / "clip.gif")
    assert (here / "clip.gif").read_bytes().startswith(b"GIF89a")


def test_says_in_one_sentence_what_cannot_be_shown(here, tmp_path, dataset, capsys):
    said = refusal(capsys, f"{dataset}:A01R33")
    assert "has no clip 'A01R33'; near it: A01R03" in said
    assert "or a number from 0 to 9" in said
    assert "has no clip '10'" in refusal(capsys, f"{dataset}:10")
    assert refusal(capsys, f"{dataset}:9") == "A01R09: no body is ever seen"
    assert "there is no nowhere" in refusal(capsys, "nowhere")
    assert "an animation shows one clip" in refusal(capsys, dataset, "--output", "all.gif")
    assert "expected a file that ends in .html, .gif or .mp4" in refusal(capsys, dataset, "--output", "all.png")
    assert "clips: expected at least 1, got 0" in refusal(capsys, dataset, "--clips", 0)
    assert "fps: expected more than 0, got 0.0" in refusal(capsys, dataset, "--fps", 0)
    empty = write_ntu_clip(tmp_path, np.zeros((3, 4, 25, 1)))
    assert refusal(capsys, empty) == "S001C001P001R001A001: no body is ever seen"
    empty.write_text("not a recording")
    assert "S001C001P001R001A001.skeleton" in refusal(capsys, empty)
    assert not list(here.iterdir())


def test_a_recording_of_one_frame_with_a_joint_that_is_no_number(here, tmp_path, capsys):
    joints = make_joints(20, frames=1)
    joints[1, 0, 7] = np.nan
    show(str(write_utd_clip(tmp_path, joints)))
    assert "1 joints lost while their body was seen" in capsys.readouterr().out
    assert len(contents(here / "a1_s1_t1_skeleton.html")) == 1


@pytest.mark.parametrize(
    ("recording", "layout", "bodies"),
    [
        ("ntu-samples/S001C001P001R001A050.skeleton", "ntu25", 2),
        ("utd-mhad/a1_s1_t1_skeleton.mat", "utd20", 1),
        ("nw-ucla/all_sqe/a01_s01_e00_v01.json", "kinect20", 1),
        ("sbu-interaction/s01s02/01/001/skeleton_pos.txt", "sbu15", 2),
        ("shrec17.npz:0", "hand22", 1),
    ],
)
def test_shows_real_recordings(here, shared, recording, layout, bodies):
    page = show(str(shared / "data" / recording), output=here / "page.html")
    (clip,) = contents(page)
    assert clip["bodies"] == bodies
    assert f"{layout}" in page.read_text(encoding="utf-8")
    assert page.stat().st_size < 6_000_000
