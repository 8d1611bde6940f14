"""The recordings that can be read: one reader per data set, all with the interface of :class:`Format`."""

from .base import Align, ClipSource, Discovery, FileFormat, Format, LostFrames, RawClip
from .coco import Coco
from .ctr_gcn import CtrGcn
from .mediapipe import MediaPipe
from .msr_action3d import MsrAction3d
from .npy_pair import NpyPair
from .npz import Npz
from .ntu import Ntu60, Ntu120, SkeletonRecording, read_skeleton_file
from .nw_ucla import NwUcla
from .openpose import OpenPose
from .pku_mmd import PkuMmd
from .poses import PoseFiles
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
    "PoseFiles",
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
        *(MediaPipe, OpenPose, Coco),  # poses of a camera
        Npz,
    )
}
"""The formats by their names on the command line."""
