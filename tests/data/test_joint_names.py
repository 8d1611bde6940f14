"""Joints by their names."""

from __future__ import annotations

import pytest

from ikem.data.formats.joint_names import UnknownJointsError, find_layout, joint_order
from ikem_ext import LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_found_and_put_in_order(name: str) -> None:
    layout = LAYOUTS[name]
    assert find_layout(layout.joint_names) == layout
    names = layout.joint_names[::-1]
    found = find_layout(names)
    assert found is not None and found.num_joints == layout.num_joints
    assert [names[index] for index in joint_order(names, layout)] == list(layout.joint_names)


def test_spellings() -> None:
    layout = LAYOUTS["kinect20"]
    for spell in (
        lambda name: name.upper(),
        lambda name: name.replace("_", " ").replace("center", "centre"),
        lambda name: name.replace("left_", "l_").replace("right_", "r_"),
        lambda name: "".join(word.title() for word in reversed(name.split("_"))) if "t_" in name else name.title(),
    ):
        names = [spell(name) for name in layout.joint_names]
        assert find_layout(names) == layout, names
        assert joint_order(names, layout) == list(range(20))


def test_other_words_for_the_trunk() -> None:
    layout = LAYOUTS["kinect20"]
    renamed = {"hip_center": "pelvis", "spine": "SpineMid", "shoulder_center": "neck"}
    names = [renamed.get(name, name) for name in layout.joint_names]
    assert find_layout(names) == layout
    names[names.index("neck")] = "nose"
    assert find_layout(names) is None
    with pytest.raises(UnknownJointsError, match=r"it has no \['nose'\], and has \['shoulder_center'\]"):
        joint_order(names, layout)


def test_joints_that_are_too_many_or_too_few() -> None:
    layout = LAYOUTS["kinect20"]
    with pytest.raises(UnknownJointsError, match=r"it has no \['tail'\], and has no others"):
        joint_order([*layout.joint_names, "tail"], layout)
    with pytest.raises(UnknownJointsError, match=r"it has no others, and has \['right_foot'\]"):
        joint_order(layout.joint_names[:-1], layout)
    with pytest.raises(UnknownJointsError, match=r"it has no \['head'\]"):
        joint_order([*layout.joint_names, "head"], layout)
