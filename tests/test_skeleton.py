from __future__ import annotations

from dataclasses import replace

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
    with pytest.raises(ValueError, match=r"one of \['kinect20', 'msr20', 'ntu25', 'sbu15', 'utd20'\].*'ntu26'"):
        get_layout("ntu26")
    with pytest.raises(TypeError, match="got int"):
        get_layout(25)  # type: ignore[arg-type]
