"""The recordings that can be read: one reader per data set, all with the interface of :class:`Format`."""

from .base import Align, ClipSource, Discovery, FileFormat, Format, LostFrames, RawClip
from .ctr_gcn import CtrGcn
from .msr_action3d import MsrAction3d
from .npy_pair import NpyPair
from .npz import Npz
from .ntu import Ntu60, Ntu120, SkeletonRecording, read_skeleton_file
from .nw_ucla import NwUcla
from .pku_mmd import PkuMmd
from .pyskl import Pyskl
from .sbu import Sbu
from .shrec17 import Shrec17, Shrec17Fingers
from .utd_mhad import UtdMhad

__all__ = [
    "FORMATS",
    "Align",
    "ClipSource",
    "Discovery",
    "FileFormat",
    "Format",
    "LostFrames",
    "RawClip",
    "SkeletonRecording",
    "read_skeleton_file",
]

FORMATS: dict[str, type[Format]] = {
    format.name: format
    for format in (
        *(
            Ntu60,
            Ntu120,
            UtdMhad,
            NwUcla,
            Sbu,
            MsrAction3d,
            PkuMmd,
            Shrec17,
            Shrec17Fingers,
        ),  # as published
        *(CtrGcn, NpyPair, Pyskl),  # as other projects write them
        Npz,
    )
}
"""The formats by their names on the command line."""
