"""CTR-GCN's ``.npz`` files: NTU RGB+D as one array of joints for training and one for testing."""

from __future__ import annotations

from pathlib import Path

from ikem_ext.skeleton import SkeletonLayout, get_layout

from .arrays import FileArray, NpzFile
from .base import Align, ClipSource, Discovery, Format, LostFrames, RawClip, without_padding
from .names import class_names, protocol_of, read_labels

__all__ = ["CtrGcn"]

_PARTS = ("train", "test")
_KEYS = {f"{letter}_{part}" for letter in "xy" for part in _PARTS}
_AXES = 3


class CtrGcn(Format):
    """What the code of CTR-GCN (Chen et al., ICCV 2021) and MAMP (Mao et al., ICCV 2023) makes of NTU and PKU-MMD.

    Such as ``NTU60_CS.npz`` or ``PKUv2_XSub.npz``, with the keys ``x_train``, ``x_test``: float (N, T, M * V * 3),
    in that order, and ``y_train``, ``y_test``: one-hot rows (N, classes), or integers (N,). The file's two parts are
    its protocol, called as the file's name says. A clip ends with its last frame that is not all zero. Clips have no
    names in the file; they are called by their part and row, such as ``train/000123``.
    """

    name = "ctr-gcn"
    example = "NTU60_CS.npz"
    align: Align = "frame"
    lost_frames: LostFrames = "keep"

    def __init__(self, raw: Path) -> None:
        super().__init__(raw)
        self._file = NpzFile(raw)
        keys = set(self._file)
        if keys != _KEYS:
            raise ValueError(f"{raw}: unknown keys {sorted(keys - _KEYS)}, missing keys {sorted(_KEYS - keys)}")
        shapes = [self._file.header(f"x_{part}").shape for part in _PARTS]
        self._width = shapes[0][-1]
        for part, shape in zip(_PARTS, shapes, strict=True):
            dtype = self._file.header(f"x_{part}").dtype
            if len(shape) != 3 or shape[-1] != self._width or dtype.kind != "f":
                raise ValueError(f"{raw}: x_{part} must be floats (N, T, {self._width}), got {dtype} {shape}")
        self.layout = "ntu25" if self._width in (75, 150) else None
        self.bodies = self._width // 75  # as long as no other skeleton is named
        self._labels = {
            part: read_labels(self._file.rows(f"y_{part}"), shape[0], f"{raw}, y_{part}")
            for part, shape in zip(_PARTS, shapes, strict=True)
        }
        self.classes = class_names(max(count for _, count in self._labels.values()))
        self._joints: dict[str, FileArray] = {}

    def begin(self, layout: SkeletonLayout, scratch: Path) -> None:
        """Finds the number of bodies from that of the joints."""
        super().begin(layout, scratch)
        self.bodies, rest = divmod(self._width, layout.num_joints * _AXES)
        if rest:
            raise ValueError(
                f"layout: {self.raw} has {self._width} numbers per frame, which are not the coordinates of bodies "
                f"with the {layout.num_joints} joints of {layout.name}"
            )

    def discover(self) -> Discovery:
        """One clip per row of both arrays."""
        self._joints = {part: self._file.rows(f"x_{part}", self.scratch) for part in _PARTS}
        protocol = protocol_of(self.raw.stem)
        sources = [
            ClipSource(f"{part}/{row:06d}", label, self.raw, index=row, parts={protocol: part})
            for part in sorted(_PARTS)
            for row, label in enumerate(self._labels[part][0])
        ]
        return Discovery(sources, {})

    def read(self, source: ClipSource) -> RawClip:
        """The clip's row without the zeros at its end."""
        assert source.index is not None and self.layout is not None  # as discover and begin give them
        (part,) = source.parts.values()
        rows = self._joints[part][source.index]
        joints = rows.reshape(len(rows), self.bodies, get_layout(self.layout).num_joints, _AXES)
        return RawClip(without_padding(joints.transpose(3, 0, 2, 1)))
