"""What lies beside the recordings and is not taken is named with the reason, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import (
    write_msr_clip,
    write_ntu_clip,
    write_nw_ucla_clip,
    write_sbu_clip,
    write_shrec_clip,
    write_utd_clip,
)

from ikem.data.formats import FORMATS, FileFormat
from ikem.data.prepare import prepare

RNG = np.random.default_rng(0)
FILES = {
    "ntu60": ("S001C001P001R001A001.skeleton", lambda folder: write_ntu_clip(folder, RNG.normal(size=(3, 4, 25, 1)))),
    "utd-mhad": ("a1_s1_t1_skeleton.mat", lambda folder: write_utd_clip(folder, RNG.normal(size=(3, 4, 20, 1)))),
    "nw-ucla": ("a01_s01_e00_v01.json", lambda folder: write_nw_ucla_clip(folder, RNG.normal(size=(3, 4, 20, 1)))),
    "sbu": ("skeleton_pos.txt", lambda folder: write_sbu_clip(folder, RNG.normal(size=(3, 4, 15, 2)))),
    "msr-action3d": (
        "a01_s01_e01_skeleton3D.txt",
        lambda folder: write_msr_clip(folder, RNG.normal(size=(3, 4, 20, 1))),
    ),
    "shrec17": ("skeletons_world.txt", lambda folder: write_shrec_clip(folder, RNG.normal(size=(3, 4, 22, 1)))),
}


@pytest.mark.parametrize("name", FILES)
def test_what_only_looks_like_a_recording_is_named(tmp_path: Path, name: str) -> None:
    clip, write = FILES[name]
    path = write(tmp_path)
    stem, suffix = path.stem, path.suffix
    unlike = {
        f"{stem.swapcase()}{suffix.upper()}",
        f"{stem} (1){suffix}",
        f"{stem}_copy{suffix}",
        f"{path.name}.txt",
        f"Copy of {path.name}",
        f"{stem}.npy",
        FORMATS[name].glob.replace("*", "x").upper(),  # type: ignore[attr-defined]
    }
    archives = {"data.ZIP", "data.tar", "data.tar.gz", "data.rar", "data.7z", "data.7z.001", f"{path.name}.gz"}
    others = {
        f".{path.name}",
        f"._{path.name}",
        ".DS_Store",
        "README.md",
        f"{stem}_rgb.avi",
        f"{stem}.png",
        "thumbs.db",
    }
    for file in unlike | archives | others:
        (path.parent / file).touch()
    (path.parent / "__MACOSX").mkdir()
    (path.parent / "__MACOSX" / path.name).touch()
    (path.parent / ".trash").mkdir()
    (path.parent / ".trash" / path.name).touch()
    sources, skipped = FORMATS[name](tmp_path).discover()
    assert [source.path for source in sources] == [path]
    below = path.parent.relative_to(tmp_path)
    assert {reason: set(names) for reason, names in skipped.items()} == {
        f"the file is not named like {FORMATS[name].example}": {str(below / file) for file in unlike},  # type: ignore[attr-defined]
        "an archive: if it holds recordings, unpack it": {str(below / file) for file in archives},
    }
    assert path.name == clip


def test_every_format_of_files_is_among_them() -> None:
    formats = {name for name, format in FORMATS.items() if issubclass(format, FileFormat)}
    assert formats - {"ntu120", "shrec17-28"} <= set(FILES)


def test_the_summary_says_so(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_msr_clip(raw, RNG.normal(size=(3, 4, 20, 1)))
    clean = prepare("msr-action3d", raw, tmp_path / "clean")
    assert "- nothing was left out" in clean.to_markdown()
    (raw / "a01_s01_e02_skeleton3D (1).txt").touch()
    (raw / "rest.zip").touch()
    text = prepare("msr-action3d", raw, tmp_path / "out").to_markdown()
    assert "nothing was left out" not in text
    assert "a01_s01_e02_skeleton3D (1).txt" in text
    assert "unpack it\n\n- rest.zip" in text


def test_a_link_to_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw").mkdir()
    write_msr_clip(tmp_path / "elsewhere", RNG.normal(size=(3, 4, 20, 1)))
    (tmp_path / "raw" / "more").symlink_to(tmp_path / "elsewhere")
    sources, skipped = FORMATS["msr-action3d"](tmp_path / "raw").discover()
    assert (sources, skipped) == ([], {"a link to a folder, which is not followed": ["more"]})
    assert len(FORMATS["msr-action3d"](tmp_path / "raw" / "more").discover().sources) == 1


def test_a_folder_with_an_archive_alone_says_unpack_it(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "nturgbd_skeletons_s001_to_s017.zip").touch()
    with pytest.raises(ValueError, match=r"found no clip of ntu60 .* unpack it \(nturgbd_skeletons_s001_to_s017.zip\)"):
        prepare("ntu60", raw, tmp_path / "out")


@pytest.mark.parametrize("name", ["ntu60", "sbu", "pku-mmd", "openpose", "npz"])
def test_an_archive_or_a_file_instead_of_a_folder(tmp_path: Path, name: str) -> None:
    for file in ("data.zip", "data.TAR.GZ", "data.7z"):
        (tmp_path / file).touch()
        with pytest.raises(ValueError, match=rf"raw: .*{file} is an archive; unpack it"):
            FORMATS[name](tmp_path / file)
    if name != "npz":
        (tmp_path / "clip.txt").touch()
        with pytest.raises(ValueError, match=rf"raw: expected the folder .* of {name}, but .*clip.txt is a file"):
            FORMATS[name](tmp_path / "clip.txt")


def test_all_doubles_are_named_at_once(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for action in (1, 2):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_msr_clip(tmp_path / folder, RNG.normal(size=(3, 4, 20, 1)), action=action)
    with pytest.raises(ValueError, match=r"clip a01_s01_e01: .* two files hold the clip a02_s01_e01: "):
        FORMATS["msr-action3d"](tmp_path).discover()
