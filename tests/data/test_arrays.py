"""Arrays that are read row by row out of files that stay where they are."""

from __future__ import annotations

import gc
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ikem.data.formats.arrays import NpzFile, open_npy

ARRAY = np.random.default_rng(0).normal(size=(40, 30, 7)).astype(np.float32)


class TestNpy:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_rows(self, tmp_path: Path, order: str) -> None:
        np.save(tmp_path / "a.npy", np.asarray(ARRAY, order=order))  # type: ignore[call-overload]
        array = open_npy(tmp_path / "a.npy")
        assert (array.shape, array.dtype, len(array)) == (ARRAY.shape, ARRAY.dtype, 40)
        np.testing.assert_array_equal(array[3], ARRAY[3])
        np.testing.assert_array_equal(array[-1], ARRAY[-1])
        np.testing.assert_array_equal(array[5:9], ARRAY[5:9])
        np.testing.assert_array_equal(np.asarray(array), ARRAY)
        assert array[7:7].shape == (0, 30, 7)
        with pytest.raises(IndexError):
            array[40]
        with pytest.raises(ValueError, match="a slice of step 1"):
            array[::2]

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        np.save(path, ARRAY)
        whole = path.read_bytes()
        array = open_npy(path)
        os.truncate(path, len(whole) - 10)  # while it is being read
        assert array[38].shape == (30, 7)
        with pytest.raises(ValueError, match=r"a\.npy: the file ends 10 bytes before"):
            array[39]
        with pytest.raises(ValueError, match=r"a\.npy: the array is cut off, 33718 bytes of 33728 are there"):
            open_npy(path)
        path.write_bytes(b"no array")
        with pytest.raises(ValueError, match=r"a\.npy: not an array in NumPy's format"):
            open_npy(path)
        np.save(path, np.array([{}]), allow_pickle=True)
        with pytest.raises(ValueError, match=r"a\.npy: expected an array of numbers or strings, got one of object"):
            open_npy(path)


class TestNpz:
    def write(self, path: Path, compressed: bool) -> Path:
        (np.savez_compressed if compressed else np.savez)(path, names=np.array(["a", "bcd"]), x=ARRAY)
        return path

    @pytest.mark.parametrize("compressed", [False, True])
    def test_rows(self, tmp_path: Path, compressed: bool) -> None:
        arrays = NpzFile(self.write(tmp_path / "a.npz", compressed))
        assert list(arrays) == ["names", "x"]
        assert "x" in arrays and "y" not in arrays
        assert arrays.header("x")[:3] == (ARRAY.shape, np.float32, False)
        assert arrays.load("names").tolist() == ["a", "bcd"]
        x, names = arrays.rows("x", tmp_path / "scratch"), arrays.rows("names", tmp_path)
        np.testing.assert_array_equal(x[12], ARRAY[12])
        np.testing.assert_array_equal(np.asarray(x), ARRAY)
        assert names[1] == "bcd"
        assert (tmp_path / "scratch").exists() == compressed  # stored arrays are read where they lie
        assert not list(tmp_path.glob("scratch/*"))  # and the copies of others have no name

    def test_files_are_closed(self, tmp_path: Path) -> None:
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        arrays = NpzFile(self.write(tmp_path / "a.npz", True))
        rows = arrays.rows("x", tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before + 2
        del arrays, rows
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("compressed", [False, True])
    def test_damaged(self, tmp_path: Path, compressed: bool) -> None:
        path = self.write(tmp_path / "a.npz", compressed)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            offset = archive.getinfo("x.npy").header_offset
        content[offset + 5000 : offset + 6000] = bytes(1000)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz: x is damaged"):
            NpzFile(path).load("x")
        if compressed:
            with pytest.raises(ValueError, match=r"a\.npz: x is damaged"):
                NpzFile(path).rows("x", tmp_path)
        path.write_bytes(content[:-100])
        with pytest.raises(ValueError, match=r"a\.npz: not an \.npz file"):
            NpzFile(path)

    def test_no_objects(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", names=np.array(["a", {}], dtype=object))
        with pytest.raises(ValueError, match=r"a\.npz, names\.npy: expected an array of numbers or strings"):
            NpzFile(tmp_path / "a.npz")
