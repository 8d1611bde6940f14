from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from ikem_ext import LAYOUTS, SkeletonLayout, get_layout

ARM = {
    "name": "arm",
    "joints": ["shoulder", "elbow", "hand", "thumb"],
    "parents": {"elbow": "shoulder", "hand": "elbow", "thumb": "hand"},
    "torso": ["shoulder", "elbow", "hand"],
}


def test_ntu25_is_the_published_skeleton() -> None:
    layout = get_layout("ntu25")
    published = [2, 21, 21, 3, 21, 5, 6, 7, 21, 9, 10, 11, 1, 13, 14, 15, 1, 17, 18, 19, 21, 8, 8, 12, 12]
    assert [parent + 1 for parent in layout.parents] == published
    assert (layout.root + 1, layout.center + 1, [joint + 1 for joint in layout.torso]) == (21, 21, [2, 5, 9])
    partners = {j + 1: a + 1 for j, a in enumerate(layout.angle_partners) if a != layout.parents[j]}
    assert partners == {23: 22, 25: 24}
    edges = {frozenset((a + 1, b + 1)) for a, b in layout.edges}
    assert {frozenset(pair) for pair in ((22, 23), (23, 8), (24, 25), (25, 12))} <= edges
    assert not {frozenset(pair) for pair in ((22, 8), (24, 12))} & edges


def test_ntu25_adjacency_is_the_published_one(golden) -> None:
    published = torch.from_numpy(golden("st_gcn_encoder")["param/A"]).float()
    torch.testing.assert_close(get_layout("ntu25").adjacency(), published, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["kinect20", "utd20", "msr20"])
def test_kinect_layouts_are_one_skeleton_in_several_orders(name: str) -> None:
    def bones(layout: SkeletonLayout) -> set[tuple[str, str]]:
        names = [joint.replace("neck", "shoulder_center") for joint in layout.joint_names]
        return {(names[a], names[b]) for a, b in layout.edges}

    assert bones(get_layout(name)) == bones(get_layout("kinect20"))
    assert get_layout(name).num_joints == 20


# As their authors number them, a few joints of each: number, name, parent.
DOCUMENTED = {
    "coco17": "0:nose>0 3:left_ear>1 6:right_shoulder>0 11:left_hip>5 16:right_ankle>14",
    "openpose18": "1:neck>1 4:right_wrist>3 8:right_hip>2 13:left_ankle>12 17:left_ear>15",
    "openpose25": "8:mid_hip>1 11:right_ankle>10 15:right_eye>0 20:left_small_toe>19",
    "halpe26": "17:head>18 19:hip>18 20:left_big_toe>15 25:right_heel>16",
    "mediapipe33": "6:right_eye_outer>5 9:left_mouth>0 17:left_pinky>15 32:right_foot_index>28",
    "azure32": "0:pelvis>0 4:left_clavicle>2 10:left_thumb>7 22:right_hip>0 31:right_ear>26",
    "h36m17": "1:right_hip>0 6:left_ankle>5 8:thorax>7 11:left_shoulder>8 16:right_wrist>15",
    "smpl24": "3:spine1>0 12:neck>9 13:left_collar>9 17:right_shoulder>14 23:right_hand>21",
    "hand21": "0:wrist>0 4:thumb_tip>3 5:index_finger_mcp>0 17:pinky_mcp>0",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_layouts_are_numbered_as_documented(name: str) -> None:
    layout = get_layout(name)
    assert layout.num_joints == int(name[-2:])
    for joint in DOCUMENTED[name].split():
        number = int(joint.split(":")[0])
        assert f"{number}:{layout.joint_names[number]}>{layout.parents[number]}" == joint


def test_hand22_is_the_order_of_the_recordings(shared) -> None:
    with np.load(shared / "data" / "shrec17.npz") as recordings:
        layout = get_layout("hand22")
        assert layout.joint_names == tuple(recordings["joint_names"].tolist())
        clip = recordings["frames"][:50]
    bones = np.linalg.norm(clip - clip[:, list(layout.parents)], axis=2).mean(axis=0)
    assert (np.delete(bones, layout.root) < 0.11).all()  # meters: joints that a bone joins lie close to each other


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_mirroring_twice_changes_nothing(layout: SkeletonLayout) -> None:
    mirror = np.array(layout.mirror)
    np.testing.assert_array_equal(mirror[mirror], np.arange(layout.num_joints))
    for joint, other in enumerate(mirror):
        assert layout.joint_names[other].replace("right", "left") == layout.joint_names[joint].replace("right", "left")
        assert mirror[layout.parents[joint]] == layout.parents[other]  # the tree is the same on both sides
    sided = [name for name in layout.joint_names if name.startswith(("left_", "right_"))]
    assert len(layout.left_right) * 2 == len(sided)


def test_partners_and_the_third_coordinate_may_be_given_and_older_files_have_none() -> None:
    arm = SkeletonLayout.from_dict({**ARM, "left_right": [["hand", "thumb"]]})
    assert arm.mirror == (0, 1, 3, 2)
    arm = replace(arm, third="confidence")
    assert SkeletonLayout.from_dict(arm.to_dict()) == arm
    older = get_layout("ntu25").to_dict()
    del older["left_right"], older["third"]
    assert SkeletonLayout.from_dict(older) == get_layout("ntu25")


class TestMapping:
    def test_every_body_is_read_as_every_other(self) -> None:
        hands = ("hand21", "hand22")
        for source in LAYOUTS:
            for target in LAYOUTS:
                mapping = SkeletonLayout.mapping(source, target)
                assert mapping.weights.shape == (LAYOUTS[target].num_joints, LAYOUTS[source].num_joints)
                if (source in hands) == (target in hands):
                    assert mapping.unmapped == ()
                    np.testing.assert_allclose(mapping.weights.sum(axis=1), 1, rtol=1e-6)
                else:
                    assert mapping.unmapped == LAYOUTS[target].joint_names

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_to_itself_changes_nothing(self, name: str) -> None:
        mapping = SkeletonLayout.mapping(name, name)
        np.testing.assert_array_equal(mapping.weights, np.eye(LAYOUTS[name].num_joints))
        assert (mapping.approximated, mapping.unused) == ({}, ())

    @pytest.mark.parametrize("source", LAYOUTS)
    @pytest.mark.parametrize("target", ["ntu25", "coco17", "hand22"])
    def test_sides_are_never_mixed_up(self, source: str, target: str) -> None:
        mapping = SkeletonLayout.mapping(source, target)
        mirrored = mapping.weights[list(mapping.target.mirror)][:, list(mapping.source.mirror)]
        np.testing.assert_array_equal(mirrored, mapping.weights)

    def test_coco_to_ntu(self) -> None:
        mapping = SkeletonLayout.mapping("coco17", "ntu25")
        poses = np.random.default_rng(0).normal(size=(3, 4, 17, 2)).astype(np.float32)
        mapped = dict(zip(mapping.target.joint_names, mapping(poses).transpose(2, 0, 1, 3), strict=True))
        coco = dict(zip(mapping.source.joint_names, poses.transpose(2, 0, 1, 3), strict=True))
        hips, shoulders = ((coco[f"left_{joint}"] + coco[f"right_{joint}"]) / 2 for joint in ("hip", "shoulder"))
        for name, expected in {
            "left_knee": coco["left_knee"],
            "spine_base": hips,
            "spine_shoulder": shoulders,
            "neck": shoulders,
            "spine_mid": (hips + shoulders) / 2,
            "head": (coco["left_ear"] + coco["right_ear"]) / 2,
            "right_hand_tip": coco["right_wrist"],
            "left_foot": coco["left_ankle"],
        }.items():  # fmt: skip
            np.testing.assert_allclose(mapped[name], expected, rtol=1e-5, atol=1e-6)
        assert mapping.approximated["spine_base"] == ("left_hip", "right_hip")
        assert mapping.unused == ("nose", "left_eye", "right_eye")

    def test_one_joint_has_many_names(self) -> None:
        for source, target, names in (
            (
                "azure32",
                "ntu25",
                {"spine_base": "pelvis", "spine_mid": "spine_navel"},
            ),
            (
                "hand21",
                "hand22",
                {"thumb_second": "thumb_ip", "index_base": "index_finger_mcp"},
            ),
            ("kinect20", "ntu25", {"spine_shoulder": "shoulder_center", "spine_mid": "spine"}),
            ("h36m17", "openpose25", {"mid_hip": "hip", "neck": "neck", "left_ankle": "left_ankle"}),
        ):
            mapping = SkeletonLayout.mapping(source, target)
            for joint, name in names.items():
                row = mapping.weights[mapping.target.joint_names.index(joint)]
                assert row[mapping.source.joint_names.index(name)] == 1
                assert joint not in mapping.approximated

    def test_what_cannot_be_had_is_refused_by_name(self) -> None:
        arm = SkeletonLayout.from_dict({**ARM, "joints": ["shoulder", "elbow", "hand", "thumb"]})
        mapping = SkeletonLayout.mapping(arm, replace(arm, joint_names=("shoulder", "elbow", "claw", "horn")))
        assert mapping.unmapped == ("claw", "horn")
        assert mapping.unused == ("hand", "thumb")
        with pytest.raises(ValueError, match="joints that layout 'arm' says nothing of: claw, horn"):
            mapping.require_all()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_built_in_layouts(layout: SkeletonLayout) -> None:
    assert SkeletonLayout.from_dict(layout.to_dict()) == layout
    assert len(layout.edges) == layout.num_joints - 1  # with no joint unreached, a tree
    adjacency = layout.adjacency()
    torch.testing.assert_close(adjacency.sum((0, 1)), torch.ones(layout.num_joints))  # normalised by columns
    assert (adjacency > 0).sum() == 3 * layout.num_joints - 2
    assert ((adjacency > 0).sum(0) <= 1).all()  # the parts do not overlap


def test_layout_from_yaml(tmp_path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump({**ARM, "angle_partners": {"thumb": "elbow"}, "center": "elbow"}))
    arm = SkeletonLayout.from_yaml(path)
    assert arm.parents == (0, 0, 1, 2)
    assert (arm.root, arm.center) == (0, 1)
    assert arm.angle_partners == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": {"elbow": "hand", "hand": "elbow", "thumb": "hand"}}, "cycle: elbow -> hand -> elbow"),
        ({"parents": {"elbow": "shoulder", "hand": "wrist"}}, "parents names the unknown joint 'wrist'"),
        ({"parents": {"elbow": "shoulder"}}, r"one root .* got \['shoulder', 'hand', 'thumb'\]"),
        ({"edges": [["shoulder", "elbow"], ["hand", "thumb"]]}, r"disconnected: .* \['hand', 'thumb'\]"),
        ({"edges": [["hand", "hand"]]}, r"loops at \['hand'\]"),
        ({"joints": ["shoulder", "elbow", "hand", "thumb", "hand"]}, r"different names.*\['hand'\]"),
        ({"torso": ["shoulder", "elbow"]}, "torso must have 3 entries, got 2"),
        ({"left_right": [["hand", "thumb"], ["thumb", "elbow"]]}, r"one partner, gives more to \['thumb'\]"),
        ({"left_right": [["hand", "toe"]]}, "left_right names the unknown joint 'toe'"),
        ({"third": "color"}, "third must be one of .*'confidence'.*, got 'color'"),
        ({"center": "nose"}, "center names the unknown joint 'nose'"),
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
    ],
)
def test_wrong_layouts_are_refused_with_the_reason(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"layout 'arm'.*{message}"):
        SkeletonLayout.from_dict({**ARM, **change})


def test_indices_outside_the_skeleton_are_refused() -> None:
    arm = SkeletonLayout.from_dict(ARM)
    with pytest.raises(ValueError, match="torso names the unknown joint 4; joints are 0 to 3"):
        replace(arm, torso=(0, 1, 4))
    with pytest.raises(ValueError, match="parents must have one root"):
        replace(arm, parents=(0, 1, 2, 3), edges=None, center=None, angle_partners=None)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \['azure32', 'coco17', .* 'utd20'\].*'ntu26'"):
        get_layout("ntu26")
    with pytest.raises(TypeError, match="got int"):
        get_layout(25)  # type: ignore[arg-type]
