"""The built-in layouts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .skeleton import SkeletonLayout

__all__ = ["LAYOUTS"]


def _sides(text: str) -> tuple[str, ...]:
    """What a ``*`` in a text stands for, one after another."""
    return ("left", "right") if "*" in text else ("",)


def _joints(text: str) -> list[str]:
    """Names of joints; one with a ``*`` stands for two, left and right.

    Example:
        >>> _joints("head *_hand")
        ['head', 'left_hand', 'right_hand']
    """
    sides = ("left", "right")
    return [
        name for word in text.split() for name in ([word.replace("*", s) for s in sides] if "*" in word else [word])
    ]


def _tree(*chains: str) -> dict[str, str]:
    """From each joint to its parent, read from chains of joints that go outwards; a ``*`` stands for either side.

    Example:
        >>> _tree("neck head", "neck *_hand")
        {'head': 'neck', 'left_hand': 'neck', 'right_hand': 'neck'}
    """
    return {
        child.replace("*", side): parent.replace("*", side)
        for chain in chains
        for side in _sides(chain)
        for parent, child in pairwise(chain.split())
    }


def _layout(
    name: str, joints: str, bones: dict[str, str], torso: str, graph: dict[str, str] | None = None, **others: Any
) -> SkeletonLayout:
    """A layout of joints, the tree of its bones and the spine, the left and the right of its torso.

    The graph is that of the bones, or a tree of its own.
    """
    names = _joints(joints)
    edges = sorted((graph or bones).items(), key=lambda edge: names.index(edge[0]))
    description = {"name": name, "joints": names, "parents": bones, "torso": torso.split(), "edges": edges}
    return SkeletonLayout.from_dict({**description, **others})


_KINECT_LIMBS = """
    left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow right_wrist right_hand
    left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot
"""
_KINECT_BODY = (
    "shoulder_center *_shoulder *_elbow *_wrist *_hand",
    "shoulder_center spine hip_center *_hip *_knee *_ankle *_foot",
    "shoulder_center head",
)
_NTU_BODY = (
    "spine_shoulder *_shoulder *_elbow *_wrist *_hand",
    "spine_shoulder spine_mid spine_base *_hip *_knee *_ankle *_foot",
    "spine_shoulder neck head",
)
_COCO_JOINTS = "nose *_eye *_ear *_shoulder *_elbow *_wrist *_hip *_knee *_ankle"
_OPENPOSE_ARMS = "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
_FACE = "nose *_eye *_ear"
_SHOULDERS = "left_shoulder right_shoulder"

LAYOUTS: dict[str, SkeletonLayout] = {
    layout.name: layout
    for layout in (
        # Kinect v2, in the order of NTU RGB+D (Shahroudy et al., CVPR 2016). The graph hangs the fingers on each other
        # (tip - thumb - hand), where the bones of the method start all fingers at the hand.
        _layout(
            "ntu25",
            f"""
            spine_base spine_mid neck head {_KINECT_LIMBS}
            spine_shoulder left_hand_tip left_thumb right_hand_tip right_thumb
            """,
            _tree(*_NTU_BODY, "*_hand *_hand_tip", "*_hand *_thumb"),
            f"spine_mid {_SHOULDERS}",
            graph=_tree(*_NTU_BODY, "*_hand *_thumb *_hand_tip"),
            angle_partners={"left_thumb": "left_hand_tip", "right_thumb": "right_hand_tip"},
        ),
        # Kinect v1, one tree of bones in three orders of joints: Northwestern-UCLA (Wang et al., CVPR 2014),
        # UTD-MHAD (Chen et al., ICIP 2015) and MSR-Action3D (Li et al., CVPRW 2010), whose neck is the shoulder
        # center.
        _layout(
            "kinect20",
            f"hip_center spine shoulder_center head {_KINECT_LIMBS}",
            _tree(*_KINECT_BODY),
            f"spine {_SHOULDERS}",
        ),
        _layout(
            "utd20",
            f"head shoulder_center spine hip_center {_KINECT_LIMBS}",
            _tree(*_KINECT_BODY),
            f"spine {_SHOULDERS}",
        ),
        _layout(
            "msr20",
            "*_shoulder neck spine *_hip hip_center *_elbow *_wrist *_hand *_knee *_ankle *_foot head",
            _tree(*(chain.replace("shoulder_center", "neck") for chain in _KINECT_BODY)),
            f"spine {_SHOULDERS}",
        ),
        # SBU Kinect Interaction (Yun et al., CVPRW 2012).
        _layout(
            "sbu15",
            """
            head neck torso left_shoulder left_elbow left_hand right_shoulder right_elbow right_hand
            left_hip left_knee left_foot right_hip right_knee right_foot
            """,
            _tree("neck head", "neck *_shoulder *_elbow *_hand", "neck torso *_hip *_knee *_foot"),
            f"torso {_SHOULDERS}",
        ),
        # Keypoints of COCO (Lin et al., ECCV 2014), which have no joint in the middle of the body: as in the graph of
        # PYSKL (Duan et al., ACM MM 2022) the tree hangs from the nose. The root's own bone is nothing, so that the
        # torso's normal is that of the nose and the shoulders.
        _layout(
            "coco17",
            _COCO_JOINTS,
            _tree(_FACE, "nose *_shoulder *_elbow *_wrist", "*_shoulder *_hip *_knee *_ankle"),
            f"nose {_SHOULDERS}",
        ),
        # OpenPose (Cao et al., TPAMI 2021): the model of COCO, joined as in ST-GCN (Yan et al., AAAI 2018), and
        # BODY_25 with the feet.
        _layout(
            "openpose18",
            f"""
            {_OPENPOSE_ARMS}
            right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear
            """,
            _tree(f"neck {_FACE}", "neck *_shoulder *_elbow *_wrist", "*_shoulder *_hip *_knee *_ankle"),
            f"nose {_SHOULDERS}",
        ),
        _layout(
            "openpose25",
            f"""
            {_OPENPOSE_ARMS}
            mid_hip right_hip right_knee right_ankle left_hip left_knee left_ankle
            right_eye left_eye right_ear left_ear
            left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel
            """,
            _tree(
                f"neck {_FACE}",
                "neck *_shoulder *_elbow *_wrist",
                "neck mid_hip *_hip *_knee *_ankle *_heel",
                "*_ankle *_big_toe *_small_toe",
            ),
            f"mid_hip {_SHOULDERS}",
        ),
        # Halpe's body and feet (Fang et al., "AlphaPose", TPAMI 2022).
        _layout(
            "halpe26",
            f"{_COCO_JOINTS} head neck hip *_big_toe *_small_toe *_heel",
            _tree(
                "neck head",
                f"neck {_FACE}",
                "neck *_shoulder *_elbow *_wrist",
                "neck hip *_hip *_knee *_ankle *_heel",
                "*_ankle *_big_toe",
                "*_ankle *_small_toe",
            ),
            f"hip {_SHOULDERS}",
        ),
        # MediaPipe Pose (Bazarevsky et al., "BlazePose", CVPRW 2020). Like COCO it has no middle.
        _layout(
            "mediapipe33",
            """
            nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer *_ear *_mouth
            *_shoulder *_elbow *_wrist *_pinky *_index *_thumb *_hip *_knee *_ankle *_heel *_foot_index
            """,
            _tree(
                "nose *_eye_inner *_eye *_eye_outer *_ear",
                "nose *_mouth",
                "nose *_shoulder *_elbow *_wrist *_index",
                "*_wrist *_pinky",
                "*_wrist *_thumb",
                "*_shoulder *_hip *_knee *_ankle *_heel",
                "*_ankle *_foot_index",
            ),
            f"nose {_SHOULDERS}",
        ),
        # Azure Kinect's body tracking, with the parents of its documentation.
        _layout(
            "azure32",
            """
            pelvis spine_navel spine_chest neck
            left_clavicle left_shoulder left_elbow left_wrist left_hand left_hand_tip left_thumb
            right_clavicle right_shoulder right_elbow right_wrist right_hand right_hand_tip right_thumb
            left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot
            head nose left_eye left_ear right_eye right_ear
            """,
            _tree(
                "pelvis spine_navel spine_chest neck head nose",
                "spine_chest *_clavicle *_shoulder *_elbow *_wrist *_hand *_hand_tip",
                "*_wrist *_thumb",
                "pelvis *_hip *_knee *_ankle *_foot",
                "head *_eye",
                "head *_ear",
            ),
            f"spine_navel {_SHOULDERS}",
        ),
        # Human3.6M (Ionescu et al., TPAMI 2014): the 17 joints that move (Martinez et al., ICCV 2017), right leg first.
        _layout(
            "h36m17",
            """
            hip right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax neck head
            left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist
            """,
            _tree("hip spine thorax neck head", "thorax *_shoulder *_elbow *_wrist", "hip *_hip *_knee *_ankle"),
            f"spine {_SHOULDERS}",
        ),
        # SMPL (Loper et al., SIGGRAPH Asia 2015), with its kinematic tree.
        _layout(
            "smpl24",
            """
            pelvis *_hip spine1 *_knee spine2 *_ankle spine3 *_foot neck *_collar head
            *_shoulder *_elbow *_wrist *_hand
            """,
            _tree(
                "pelvis spine1 spine2 spine3 neck head",
                "spine3 *_collar *_shoulder *_elbow *_wrist *_hand",
                "pelvis *_hip *_knee *_ankle *_foot",
            ),
            f"spine1 {_SHOULDERS}",
        ),
        # One hand, as MediaPipe Hands (Zhang et al., CVPRW 2020) and OpenPose order it.
        _layout(
            "hand21",
            """
            wrist thumb_cmc thumb_mcp thumb_ip thumb_tip
            index_finger_mcp index_finger_pip index_finger_dip index_finger_tip
            middle_finger_mcp middle_finger_pip middle_finger_dip middle_finger_tip
            ring_finger_mcp ring_finger_pip ring_finger_dip ring_finger_tip
            pinky_mcp pinky_pip pinky_dip pinky_tip
            """,
            _tree(
                "wrist thumb_cmc thumb_mcp thumb_ip thumb_tip",
                "wrist index_finger_mcp index_finger_pip index_finger_dip index_finger_tip",
                "wrist middle_finger_mcp middle_finger_pip middle_finger_dip middle_finger_tip",
                "wrist ring_finger_mcp ring_finger_pip ring_finger_dip ring_finger_tip",
                "wrist pinky_mcp pinky_pip pinky_dip pinky_tip",
            ),
            "middle_finger_mcp index_finger_mcp pinky_mcp",
        ),
        # One hand, as SHREC'17 orders it (De Smedt et al., 3DOR 2017).
        _layout(
            "hand22",
            """
            wrist palm thumb_base thumb_first thumb_second thumb_tip
            index_base index_first index_second index_tip middle_base middle_first middle_second middle_tip
            ring_base ring_first ring_second ring_tip pinky_base pinky_first pinky_second pinky_tip
            """,
            _tree(
                "wrist thumb_base thumb_first thumb_second thumb_tip",
                "wrist palm index_base index_first index_second index_tip",
                "palm middle_base middle_first middle_second middle_tip",
                "palm ring_base ring_first ring_second ring_tip",
                "palm pinky_base pinky_first pinky_second pinky_tip",
            ),
            "middle_base index_base pinky_base",
            center="palm",
        ),
    )
}
