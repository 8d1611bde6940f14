"""Pickles of data are read as Python reads them, and nothing else is read, let alone run."""

from __future__ import annotations

import collections
import gc
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ikem.data.formats.restricted_pickle import PickledArray, load_pickle

RNG = np.random.default_rng(0)
ARRAYS = {
    "small": RNG.normal(size=(2, 3)).astype(np.float16),
    "long": RNG.normal(size=(2, 40, 25, 3)).astype(np.float32),
    "fortran": np.asfortranarray(RNG.normal(size=(50, 40))),
    "transposed": RNG.normal(size=(20, 30, 4)).transpose(2, 0, 1),
    "big endian": np.arange(2000, dtype=">i4"),
    "empty": np.zeros((0, 5), dtype=np.int64),
    "scalar": np.array(3.5),
    "flags": np.array([True, False]),
    "names": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
}
SHARED = ["twice"]
PLAIN = {
    "numbers": [0, 255, 256, 65536, -1, 2**31, -(2**70), 1.5, float("inf"), True, False, None],
    "strings": ["", "a", "line\nbreak", "é ☃", "x" * 300, "'quoted\\"],
    "bytes": [b"", b"\x00\xff\n'", b"y" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [set(), {1, "a"}, frozenset(), frozenset({2})],
    "dicts": [{}, {1: {"a": []}}, collections.OrderedDict(b=1, a=2)],
    "shared": [SHARED, SHARED],
    "numpy": [np.float32(0.5), np.int64(7), np.bool_(True), np.str_("text")],
}
# As Python 2 writes ([file names], [labels], array of 2 x 3 floats), with NumPy's own name for its strings.
PYTHON_2 = (
    b"\x80\x02]q\x00(U\x09S001.skelq\x01U\x01\xe9q\x02e]q\x03(K\x03K\x04ecnumpy.core.multiarray\n_reconstruct\nq\x04"
    b"cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09(K\x01K\x02K\x03\x86q\x0acnumpy\ndtype\nq\x0b"
    b"U\x02f4q\x0cK\x00K\x01\x87q\x0dRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89"
    b"U\x18" + np.arange(6, dtype="<f4").tobytes() + b"q\x11tq\x12b\x87q\x13."
)


def write(folder: Path, content: bytes) -> Path:
    (folder / "data.pkl").write_bytes(content)
    return folder / "data.pkl"


class TestData:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_every_protocol(self, tmp_path: Path, protocol: int) -> None:
        loaded = load_pickle(write(tmp_path, pickle.dumps({**PLAIN, "arrays": ARRAYS}, protocol)))
        arrays = loaded.pop("arrays")
        assert loaded == PLAIN
        assert [type(value) for value in loaded["numpy"]] == [np.float32, np.int64, np.bool_, np.str_]
        assert loaded["shared"][0] is loaded["shared"][1]
        for name, expected in ARRAYS.items():
            assert isinstance(arrays[name], PickledArray)
            assert (arrays[name].shape, arrays[name].dtype) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(np.asarray(arrays[name]), expected)

    def test_python_2(self, tmp_path: Path) -> None:
        names, labels, array = load_pickle(write(tmp_path, PYTHON_2))
        assert (names, labels) == (["S001.skel", "é"], [3, 4])
        np.testing.assert_array_equal(np.asarray(array), np.arange(6, dtype=np.float32).reshape(2, 3))
        text = b"(dp0\nS'it\\'s \\xe9'\np1\n(lp2\nI01\naI7\naL8L\naF0.5\nas."
        assert load_pickle(write(tmp_path, text)) == {"it's é": [True, 7, 8, 0.5]}

    def test_numpy_2_names_its_modules_otherwise(self, tmp_path: Path) -> None:
        content = pickle.dumps(ARRAYS["small"], 2)
        for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            other = content.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
            np.testing.assert_array_equal(np.asarray(load_pickle(write(tmp_path, other))), ARRAYS["small"])

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_arrays_stay_in_the_file(self, tmp_path: Path, protocol: int) -> None:
        clips = [{"frame_dir": str(clip), "keypoint": np.full((2, 50, 25, 3), clip, np.float32)} for clip in range(200)]
        path = write(tmp_path, pickle.dumps(clips, protocol))
        assert path.stat().st_size > 5e6
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        try:
            loaded = load_pickle(path)
            assert [float(np.asarray(clip["keypoint"]).mean()) for clip in loaded] == list(range(200))
            assert tracemalloc.get_traced_memory()[1] < 1e6
        finally:
            tracemalloc.stop()
        del loaded
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before


class Call:
    """Pickles as a call, as hostile files do."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.content = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.content


def calling(name: str, arguments: str) -> bytes:
    """A pickle of protocol 0 that calls the function of a module with strings."""
    module, function = name.rsplit(".", 1)
    return f"c{module}\n{function}\n({arguments}tR.".encode()


class TestHostile:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_commands_are_not_run(self, tmp_path: Path, protocol: int) -> None:
        hostile = Call(os.system, f"touch {tmp_path / 'ran'}")
        path = write(tmp_path, pickle.dumps({"annotations": [hostile]}, protocol))
        with pytest.raises(ValueError, match=r"data\.pkl: holds \w+\.system; only arrays, numbers, strings and con"):
            load_pickle(path)
        assert not (tmp_path / "ran").exists()
        pickle.loads(path.read_bytes())  # as anybody else's reader would
        assert (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "name",
        [
            "builtins.eval", "__builtin__.eval", "builtins.getattr", "builtins.__import__", "builtins.open",
            "operator.attrgetter", "functools.partial", "copy_reg._reconstructor", "copyreg.__newobj__",
            "numpy.load", "numpy.fromfile", "numpy.core.multiarray.fromfile", "numpy.testing._private.utils.runstring",
            "numpy.ndarray.tofile", "numpy._core._exceptions.os.system", "collections.OrderedDict.fromkeys",
            "pickle.loads", "numpy.matrix", "numpy.ma.core._mareconstruct", "pandas.core.frame.DataFrame",
        ],
    )  # fmt: skip
    def test_other_names_are_refused(self, tmp_path: Path, name: str) -> None:
        known = name.replace("__builtin__", "builtins").replace("numpy._core.", "numpy.core.")
        for content in (
            calling(name, "S'1+1'\n"),
            b"(i" + "\n".join(name.rsplit(".", 1)).encode() + b"\n.",
            b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in name.rsplit(".", 1)) + b"\x93.",
        ):
            with pytest.raises(ValueError, match=f"holds ({known}|{name}); only arrays".replace(".", r"\.")):
                load_pickle(write(tmp_path, content))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"Pfile\n.", "holds the instruction PERSID"),
            (b"K\x01Q.", "holds the instruction BINPERSID"),
            (b"\x82\x01.", "holds the instruction EXT1"),
            (b"cnumpy\nndarray\n(K\x05t\x81.", "holds the instruction NEWOBJ"),
            (b"\x97.", "holds the instruction NEXT_BUFFER"),
            (calling("numpy.ndarray", "I5\n"), "holds a call of numpy.ndarray"),
            (calling("numpy.core.multiarray._reconstruct", "cnumpy\ndtype\n(I0\ntS'b'\n"), "a class of its own"),
            (calling("numpy.dtype", "S'O'\nI0\nI1\n"), "holds an array of object"),
            (calling("numpy.dtype", "S'V8'\nI0\nI1\n"), r"holds an array of \|V8"),
            (calling("numpy.dtype", "S'f4,f4'\nI0\nI1\n"), "holds an array of f4,f4"),
            (calling("_codecs.encode", "S'x'\nS'unicode_escape'\n"), "holds a string encoded as unicode_escape"),
            (calling("builtins.bytes", "I1000000000000\n"), "not a whole pickle"),
            (b"}K\x01\x85b.", "holds a state for dict"),
            (pickle.dumps({("a", "b"): 1}), "holds a key of the type tuple"),
            (pickle.dumps("x" * 5000), "holds a string of 5000 bytes outside of an array"),
            (pickle.dumps(np.array(["a", None], dtype=object)), "holds an array of object"),
            (pickle.dumps(np.zeros(2, dtype=[("x", "f4")])), r"holds an array of \|V4"),
            (b"\x8d" + struct.pack("<Q", 2**62) + b"x.", "it is cut off"),
            (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", "a string of 2147483647 bytes in a file of 7"),
            (b"\x80\x09.", "protocol 9 is not known"),
            (b"S'a' + 'b'\n.", "a string without quotes"),
            (b"\xff.", "there is no instruction"),
            (b"K\x01", "it is cut off"),
            (b"", "it is cut off"),
            (b".", "not a whole pickle"),
        ],
    )
    def test_refused_with_the_reason(self, tmp_path: Path, content: bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=rf"data\.pkl: .*{reason}"):
            load_pickle(write(tmp_path, content))

    def test_arrays_are_no_larger_than_their_contents(self, tmp_path: Path) -> None:
        content = pickle.dumps(np.zeros(3, np.uint8), 2)
        assert content.count(b"K\x03\x85") == 1
        huge = content.replace(b"K\x03\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85")
        with pytest.raises(ValueError, match="an array of 2147483647 bytes in 3"):
            load_pickle(write(tmp_path, huge))
        with pytest.raises(ValueError, match="an array of the shape"):
            load_pickle(write(tmp_path, content.replace(b"K\x03\x85", b"J" + struct.pack("<i", -3) + b"\x85")))

    def test_deep_nesting_is_no_danger(self, tmp_path: Path) -> None:
        loaded = load_pickle(write(tmp_path, b"N" + b"\x85" * 200_000 + b"."))
        for _ in range(200_000):
            (loaded,) = loaded
        assert loaded is None

    def test_cut_off_anywhere(self, tmp_path: Path) -> None:
        content = pickle.dumps({"a": [1, 2.5, "text", b"bytes", {1}], "b": np.arange(3)}, 4)
        for length in range(len(content)):
            with pytest.raises(ValueError, match=r"data\.pkl: not a whole pickle"):
                load_pickle(write(tmp_path, content[:length]))
