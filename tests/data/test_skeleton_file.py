"""The native reader of NTU skeleton files against its plain twin, on real, odd and broken files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ikem_ext._native import parse_skeleton

from ikem.data.formats import read_skeleton_file
from ikem_ext.reference.skeleton_file import parse_skeleton as plain_parse_skeleton

JOINT = "0.2181153 0.1725972 3.785547 277.419 191.8218 1036.233 519.1677 -0.2059419 0.05349901 0.9692109 -0.1239193 2"
BODY = "72057594037931101 0 1 1 1 1 0 0.02764709 0.05745083 2"


def skeleton_lines(*body_counts: int) -> list[str]:
    """A file with that many bodies in its frames; every coordinate is different."""
    lines, value = [str(len(body_counts))], 0
    for bodies in body_counts:
        lines.append(str(bodies))
        for body in range(bodies):
            lines += [BODY.replace("101 ", f"{101 + body} "), "25"]
            for _ in range(25):
                value += 1
                lines.append(f"{value / 1000} {-value / 7:.9f} {value * 1e3:.3f} " + JOINT.split(" ", 3)[3])
    return lines


def text_of(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode()


def assert_same(text: bytes) -> None:
    for native, plain in zip(parse_skeleton(text, "x"), plain_parse_skeleton(text, "x"), strict=True):
        assert native.dtype == plain.dtype
        np.testing.assert_array_equal(native, plain)


def test_real_files_are_read_to_the_last_bit(shared: Path, golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    files = sorted((shared / "data" / "ntu-samples").glob("*.skeleton"))
    assert len(files) == 9
    expected = golden("ntu_preprocess")
    compared = 0
    for file in files:
        assert_same(file.read_bytes())
        if f"{file.stem}/joints" in expected:
            joints = read_skeleton_file(file).joints.transpose(3, 0, 2, 1)
            np.testing.assert_array_equal(joints, expected[f"{file.stem}/joints"][..., : joints.shape[3]])
            compared += 1
    assert compared == 6


def test_bodies_stand_in_the_order_of_the_file_and_are_padded(tmp_path: Path) -> None:
    file = tmp_path / "a.skeleton"
    file.write_bytes(text_of(skeleton_lines(0, 1, 3)))
    recording = read_skeleton_file(file)
    assert recording.joints.shape == (3, 3, 25, 3)
    assert recording.joints.dtype == np.float64
    np.testing.assert_array_equal(recording.body_counts, [0, 1, 3])
    ids = [72057594037931101, 72057594037931102, 72057594037931103]
    np.testing.assert_array_equal(recording.body_ids, [[0, 0, 0], [ids[0], 0, 0], ids])
    np.testing.assert_array_equal(recording.tracking_states, [[0, 0, 0], [2, 0, 0], [2, 2, 2]])
    np.testing.assert_array_equal(
        recording.joint_tracking_states, 2 * (recording.body_ids > 0)[..., None].repeat(25, 2)
    )
    np.testing.assert_array_equal(recording.joints[1, 0, :, 0], np.arange(1, 26) / 1000)
    np.testing.assert_array_equal(recording.joints[2, :, :, 0].ravel(), np.arange(26, 101) / 1000)
    assert not recording.joints[1, 1:].any()


@pytest.mark.parametrize("frames", [[], [0], [0, 0, 0]])
def test_files_without_a_body(frames: list[int]) -> None:
    joints, *_, body_counts = parse_skeleton(text_of(skeleton_lines(*frames)), "x")
    assert joints.shape == (len(frames), 0, 25, 3)
    assert body_counts.tolist() == frames


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda text: text.rstrip(b"\n"), id="no end of the last line"),
        pytest.param(lambda text: text + b"\n \r\n\n", id="empty lines at the end"),
        pytest.param(lambda text: text.replace(b" ", b"  "), id="two spaces"),
        pytest.param(lambda text: text.replace(b" ", b"\t"), id="tabs"),
        pytest.param(lambda text: text.replace(b" ", b" +", 30).replace(b" +-", b" -"), id="plus signs"),
        pytest.param(lambda text: re.sub(rb"(\d\.\d+)", rb"\g<1>" + b"0" * 20, text), id="long lines"),
    ],
)
def test_the_same_file_written_differently(change: Callable[[bytes], bytes]) -> None:
    text = text_of(skeleton_lines(1, 2))
    changed = change(text)
    assert changed != text
    for expected, array in zip(parse_skeleton(text, "x"), parse_skeleton(changed, "x"), strict=True):
        np.testing.assert_array_equal(expected, array)


@given(
    st.floats(-1e300, 1e300),
    st.sampled_from([repr, "{:.7g}".format, "{:.17g}".format, "{:.3f}".format, "{:.9e}".format]),
)
def test_every_finite_number_is_read_to_the_last_bit(value: float, written: Callable[[float], str]) -> None:
    lines = skeleton_lines(1)
    lines[10] = f"{written(value)} " + lines[10].split(" ", 1)[1]
    # A line is read in another way where there is little left of the file, so it is followed by a second frame.
    text = text_of(["2", *lines[1:], *lines[1:]])
    joints = parse_skeleton(text, "x")[0]
    assert joints[0, 0, 6, 0] == joints[1, 0, 6, 0] == float(written(value))


@pytest.mark.parametrize("word", ["nan", "-inf", "inf", "1e5", "-1.5E-05"])
def test_fields_that_are_not_used_may_be_any_number(word: str) -> None:
    lines = skeleton_lines(2)
    lines[10] = " ".join([*lines[10].split()[:5], word, *lines[10].split()[6:]])
    assert_same(text_of(lines))


def replaced(line: int, text: str) -> Callable[[list[str]], list[str]]:
    """The file with another text in a line, counted from 1."""
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


WRONG = {
    "empty": (lambda lines: [], 1, "the file ends where the number of frames was expected"),
    "an empty line": (lambda lines: [""], 1, "the number of frames must be a whole number below 2\\^63, got ''"),
    "truncated after the count": (lambda lines: lines[:1], 1, "frames is 2, more than the other 0 bytes of the file"),
    "truncated in a body": (lambda lines: lines[:20], 21, "the file ends where joint 17 of body 1 of frame 1 of 2"),
    "truncated between frames": (lambda lines: lines[:29], 30, "ends where the number of bodies of frame 2 of 2"),
    "truncated in a line": (
        lambda lines: [*lines[:19], lines[19][:30]],
        20,
        "expected 12 fields for joint 16 of body 1 of frame 1 of 2, got",
    ),
    "a word for the number of frames": (
        replaced(1, "two"),
        1,
        "the number of frames must be a whole number below 2\\^63, got 'two'",
    ),
    "a fraction of frames": (replaced(1, "2.5"), 1, "must be a whole number below 2\\^63, got '2.5'"),
    "two numbers of frames": (replaced(1, "2 2"), 1, "more than one field for the number of frames: '2'"),
    "a negative number of frames": (replaced(1, "-2"), 1, "the number of frames must not be negative, got -2"),
    "too many frames": (replaced(1, "3"), 58, "the file ends where the number of bodies of frame 3 of 3"),
    "too few frames": (replaced(1, "1"), 30, "the file goes on after its 1 frames: '1'"),
    "an absurd number of frames": (replaced(1, "999999999999"), 1, "more than the other .* bytes of the file can hold"),
    "frames beyond 64 bits": (replaced(1, "9" * 30), 1, "the number of frames must be a whole number below 2\\^63"),
    "a negative number of bodies": (replaced(2, "-1"), 2, "bodies of frame 1 of 2 must not be negative, got -1"),
    "an absurd number of bodies": (replaced(30, "100000"), 30, "bodies of frame 2 of 2 is 100000, more than the other"),
    "a body too many": (replaced(2, "2"), 30, "expected 10 fields for the line of body 2 of frame 1 of 2, got 1"),
    "an id that is no number": (
        replaced(3, BODY.replace("7", "x")),
        3,
        "the id of body 1 of frame 1 of 2 must be a whole",
    ),
    "a negative id": (replaced(3, "-" + BODY), 3, "the id of body 1 of frame 1 of 2 must be a whole number"),
    "a field too few": (replaced(3, BODY.rsplit(" ", 1)[0]), 3, "expected 10 fields for the line of body 1 .*, got 9"),
    "a field too many": (
        replaced(3, BODY + " 2"),
        3,
        "more than 10 fields for the line of body 1 of frame 1 of 2: '2'",
    ),
    "an odd tracking state": (
        replaced(3, BODY[:-1] + "-1"),
        3,
        "tracking state of the line of body 1 .* from 0 to 255",
    ),
    "20 joints": (replaced(4, "20"), 4, "the number of joints of body 1 of frame 1 of 2 must be 25, got 20"),
    "26 joints": (replaced(4, "26"), 4, "the number of joints of body 1 of frame 1 of 2 must be 25, got 26"),
    "a negative number of joints": (replaced(4, "-25"), 4, "the number of joints .* must not be negative"),
    "a word in a coordinate": (
        replaced(9, JOINT.replace("3.785547", "here")),
        9,
        "field 3 for joint 5 .* number: 'here'",
    ),
    "a word elsewhere": (replaced(9, JOINT.replace("191.8218", "here")), 9, "field 5 for joint 5 of body 1 of frame 1"),
    "two points": (replaced(9, JOINT.replace("191.8218", "19.1.8218")), 9, "not a number: '19.1.8218'"),
    "two signs": (replaced(9, JOINT.replace("191.8218", "--191.8218")), 9, "not a number: '--191.8218'"),
    "a decimal comma": (replaced(9, JOINT.replace(".", ",")), 9, "field 1 for joint 5 .* not a number: '0,2181153'"),
    "a joint with 11 numbers": (replaced(9, JOINT[:-2]), 9, "expected 12 fields for joint 5 of body 1 .*, got 11"),
    "a joint with 13 numbers": (replaced(9, JOINT + " 2"), 9, "more than 12 fields for joint 5 of body 1 of frame 1"),
    "NaN": (replaced(9, JOINT.replace("3.785547", "nan")), 9, "the z coordinate of joint 5 of body 1 .* is not finite"),
    "infinity": (replaced(9, JOINT.replace("0.2181153", "-inf")), 9, "the x coordinate of joint 5 .* is not finite"),
    "a number out of range": (replaced(9, JOINT.replace("3.785547", "1e999")), 9, "is not a number: '1e999'"),
    "a word for the tracking state": (replaced(9, JOINT[:-1] + "x"), 9, "field 12 for joint 5 .* not a number: 'x'"),
    "a fraction of a tracking state": (replaced(9, JOINT[:-1] + "0.5"), 9, "the tracking state of joint 5 of body 1"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("change", "line", "message"), WRONG.values(), ids=WRONG)
def test_damaged_files_are_refused_with_file_and_line(
    tmp_path: Path, change: Callable[[list[str]], list[str]], line: int, message: str, end: str
) -> None:
    lines = skeleton_lines(1, 1)
    file = tmp_path / "S001C001P001R001A001.skeleton"
    file.write_bytes(text_of(change(lines), end))
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}:{line}: .*{message}"):
        read_skeleton_file(file)


@pytest.mark.parametrize("length", [1, 100, 100_000])
def test_binary_rubbish_is_refused(length: int) -> None:
    rubbish = np.random.default_rng(length).bytes(length)
    with pytest.raises(ValueError, match=r"^rubbish:1: .*'[ -~]*'$"):  # the message itself is clean text
        parse_skeleton(rubbish, "rubbish")


def test_padding_does_not_multiply_a_small_file_to_gigabytes() -> None:
    frames = 300_000
    lines = [str(frames), *["0"] * (frames - 1), *skeleton_lines(5)[1:]]
    with pytest.raises(ValueError, match=f":{frames + 1}: a file of 300000 frames with up to 5 bodies is refused"):
        parse_skeleton(text_of(lines), "x")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_skeleton_file(tmp_path / "nothing.skeleton")
    with pytest.raises(IsADirectoryError):
        read_skeleton_file(tmp_path)


WORDS = [b"-1", b"0", b"25", b"26", b"9" * 25, b"nan", b"inf", b"1e5", b"1e999", b"0x10", b"+1", b"1.2.3", b".5", b"5."]
WORDS += [b"-", b" ", b"\t", b"\n", b"\r\n", b"\r", b"\x00", b"\xff", b"1_0", b"0.12345678901234567890123", b"1-2"]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 30), st.one_of(st.just(b""), st.sampled_from(WORDS), st.binary(max_size=3))
    ),
    min_size=1,
    max_size=4,
)


@given(EDITS, st.sampled_from(["\n", "\r\n"]))
def test_mutated_files_are_read_or_refused_like_by_the_plain_reader(
    edits: list[tuple[float, int, bytes]], end: str
) -> None:
    text = text_of(skeleton_lines(1, 2, 0), end)
    for place, length, inserted in edits:
        start = round(place * len(text))
        text = text[:start] + inserted + text[start + length :]
    refusals = [refusal(parse, text) for parse in (parse_skeleton, plain_parse_skeleton)]
    if refusals == [None, None]:
        assert_same(text)
    else:
        native, plain = (re.fullmatch(r"x:(\d+): (.+)", str(reason)) for reason in refusals)
        assert native is not None
        assert plain is not None
        # A count that is too large is noticed before the file ends.
        assert native[1] == plain[1] or "can hold" in native[2]


def refusal(parse: Callable[[bytes, str], object], text: bytes) -> str | None:
    try:
        parse(text, "x")
    except ValueError as error:
        return str(error)
    return None
