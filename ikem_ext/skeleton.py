"""What a skeleton is: the names of its joints, the tree of its bones and the graph that convolutions run on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

if TYPE_CHECKING:
    from .layout_mapping import LayoutMapping

__all__ = ["SkeletonLayout", "Third", "get_layout"]

Third = Literal["depth", "zero", "confidence"]


@dataclass(frozen=True)
class SkeletonLayout:
    """A skeleton's joints, bones and graph. All indices count from 0.

    Args:
        name: what the layout is called in files and error messages.
        joint_names: one name per joint, all different; their number is V.
        parents: for each joint the joint that its bone starts from; the root is its own parent.
        torso: three joints (spine, left, right). The bones that end there span the plane whose unit normal
            stands for the bone of the root.
        edges: pairs of joints that graph convolutions connect (no direction, no self-loops).
            Default: the bones.
        center: the joint from which the spatial partition of the graph counts distances. Default: the root.
        angle_partners: for each joint the joint whose bone forms an angle with the joint's own bone.
            Default: the parents.
        left_right: pairs of joints that change places in a mirror. Default: those that are called ``left_``
            and ``right_`` and have the rest of their names in common.
        third: what the third coordinate of the joints is: ``depth``, in space; ``zero``, for points in an image; or
            ``confidence``, from 0 to 1, that comes with each point in an image.

    Raises:
        ValueError: the parents hold a cycle or not exactly one root, a joint is unknown or named twice, the edges
            leave a joint unreached, or a joint has two partners; the message names the joints. Or ``third`` is none
            of these.

    Example:
        >>> arm = SkeletonLayout(
        ...     name="arm", joint_names=("shoulder", "elbow", "hand"), parents=(0, 0, 1), torso=(0, 1, 2)
        ... )
        >>> arm.num_joints, arm.root, arm.edges
        (3, 0, ((1, 0), (2, 1)))
        >>> arm.adjacency().shape
        torch.Size([3, 3, 3])
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    torso: tuple[int, int, int]
    # None stands for a default that depends on the other fields; __post_init__ fills it in.
    edges: tuple[tuple[int, int], ...] = None  # type: ignore[assignment]
    center: int = None  # type: ignore[assignment]
    angle_partners: tuple[int, ...] = None  # type: ignore[assignment]
    left_right: tuple[tuple[int, int], ...] = None  # type: ignore[assignment]
    third: Third = "depth"

    def __post_init__(self) -> None:
        self._set("joint_names", tuple(self.joint_names))
        repeated = [name for name, count in Counter(self.joint_names).items() if count > 1]
        if not self.joint_names or repeated:
            self._refuse(f"joint_names must be different names, at least one; got {repeated or 'none'}")
        self._set("parents", self._joints("parents", self.parents, self.num_joints))
        self._check_tree()
        self._set("torso", self._joints("torso", self.torso, 3))
        partners = self.parents if self.angle_partners is None else self.angle_partners
        self._set("angle_partners", self._joints("angle_partners", partners, self.num_joints))
        self._set("center", self._joints("center", (self.root if self.center is None else self.center,), 1)[0])
        bones = tuple((joint, parent) for joint, parent in enumerate(self.parents) if joint != parent)
        edges = bones if self.edges is None else self.edges
        self._set("edges", tuple(self._joints("edges", edge, 2) for edge in edges))
        self._check_graph()
        pairs = self._named_pairs() if self.left_right is None else self.left_right
        self._set("left_right", tuple(self._joints("left_right", pair, 2) for pair in pairs))
        shared = Counter(joint for pair in self.left_right for joint in pair)
        if repeated := [self.joint_names[joint] for joint, count in shared.items() if count > 1]:
            self._refuse(f"left_right must give a joint one partner, gives more to {repeated}")
        if self.third not in get_args(Third):
            self._refuse(f"third must be one of {get_args(Third)}, got {self.third!r}")

    @property
    def num_joints(self) -> int:
        """V, the number of joints."""
        return len(self.joint_names)

    @property
    def root(self) -> int:
        """The joint that is its own parent."""
        return next(joint for joint, parent in enumerate(self.parents) if joint == parent)

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the one whose place it takes in a mirror: its partner, or itself.

        Example:
            >>> joints = torch.randn(8, 3, 50, 25, 2)
            >>> mirrored = joints[:, :, :, list(get_layout("ntu25").mirror)]
            >>> mirrored[:, 0] *= -1  # x points the other way
        """
        partners = {a: b for pair in self.left_right for a, b in (pair, pair[::-1])}
        return tuple(partners.get(joint, joint) for joint in range(self.num_joints))

    @staticmethod
    def mapping(source: str | SkeletonLayout, target: str | SkeletonLayout) -> LayoutMapping:
        """How the joints of one skeleton are had from those of another.

        A joint is taken from the source's joint of the same name, or of a name that other projects have for it
        (``mid_hip``, ``pelvis`` and ``spine_base`` are one); without one, from others that lie around it, such as
        the center of the hips from both hips. What has neither is named, see :class:`LayoutMapping`.

        Args:
            source: the skeleton that is there, or its name.
            target: the skeleton that is wanted, or its name.

        Example:
            >>> coco = SkeletonLayout.mapping("coco17", "ntu25")
            >>> coco.weights.shape, coco.unmapped
            ((25, 17), ())
            >>> coco.approximated["spine_base"]
            ('left_hip', 'right_hip')
        """
        from .layout_mapping import map_layouts  # made of this class, as the layouts are

        return map_layouts(get_layout(source), get_layout(target))

    def adjacency(self) -> torch.Tensor:
        """The graph in the three parts of ST-GCN's spatial partition.

        The adjacency matrix with self-loops is normalised by columns, ``A[v, w] / sum_v A[v, w]``, and split
        by where ``v`` lies as seen from ``w``: the joint itself; as far from the center or farther; closer.
        As in the published implementations, which look no farther than one edge, all joints that are not
        the center's neighbours count as equally far from it.

        Returns:
            float32 tensor (3, V, V), indexed (part, from joint v, to joint w).

        Source: Yan et al., "Spatial Temporal Graph Convolutional Networks", AAAI 2018, section 3.3.
        """
        identity = torch.eye(self.num_joints, dtype=torch.float64)
        connected = identity.clone()
        for a, b in self.edges:
            connected[a, b] = connected[b, a] = 1
        normalized = connected / connected.sum(0, keepdim=True)
        distance = torch.tensor(self.distances(self.center)).clamp(max=2)
        closer = distance[:, None] < distance[None, :]
        neighbours = normalized * (1 - identity)
        return torch.stack((normalized * identity, neighbours * ~closer, neighbours * closer)).float()

    def distances(self, start: int) -> list[int]:
        """The number of edges of the graph from the joint ``start`` to each joint, -1 where there is no path."""
        neighbours: list[list[int]] = [[] for _ in range(self.num_joints)]
        for a, b in self.edges:
            neighbours[a].append(b)
            neighbours[b].append(a)
        distances = [-1] * self.num_joints
        distances[start] = 0
        waiting = deque([start])
        while waiting:
            joint = waiting.popleft()
            for neighbour in neighbours[joint]:
                if distances[neighbour] < 0:
                    distances[neighbour] = distances[joint] + 1
                    waiting.append(neighbour)
        return distances

    def to_dict(self) -> dict[str, Any]:
        """The layout in the form that :meth:`from_dict` reads, joints by name, fit for YAML and JSON."""
        name = self.joint_names.__getitem__
        return {
            "name": self.name,
            "joints": list(self.joint_names),
            "parents": {name(j): name(p) for j, p in enumerate(self.parents) if j != p},
            "torso": [name(joint) for joint in self.torso],
            "edges": [[name(a), name(b)] for a, b in self.edges],
            "center": name(self.center),
            "angle_partners": {name(j): name(a) for j, a in enumerate(self.angle_partners) if a != self.parents[j]},
            "left_right": [[name(a), name(b)] for a, b in self.left_right],
            "third": self.third,
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> SkeletonLayout:
        """Makes a layout from names of joints.

        Args:
            description: ``name``; ``joints``, a list of names; ``parents``, a mapping from joint to parent
                without the root; ``torso``, the three joints spine, left, right; and, where they differ from
                the defaults, ``edges`` (pairs), ``center``, ``angle_partners`` (a mapping that lists only the
                joints whose partner is not their parent), ``left_right`` (pairs) and ``third``.

        Raises:
            ValueError: a key is unknown or missing, a joint is unknown, or the layout is not a valid one.
        """
        known = {"name", "joints", "parents", "torso", "edges", "center", "angle_partners", "left_right", "third"}
        if not isinstance(description, Mapping):
            raise ValueError(f"layout: expected a mapping with the keys {sorted(known)}, got {description!r}")
        label = f"layout {description.get('name')!r}"
        unknown, missing = set(description) - known, {"name", "joints", "parents", "torso"} - set(description)
        if unknown or missing:
            raise ValueError(f"{label}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
        names = [str(name) for name in description["joints"]]
        index = {name: joint for joint, name in enumerate(names)}

        def joint(key: str, name: Any) -> int:
            if name not in index:
                raise ValueError(f"{label}: {key} names the unknown joint {name!r}")
            return index[name]

        def mapped(key: str, default: Sequence[int]) -> tuple[int, ...]:
            given = {joint(key, j): joint(key, p) for j, p in (description.get(key) or {}).items()}
            return tuple(given.get(j, default[j]) for j in range(len(names)))

        fields: dict[str, Any] = {"name": str(description["name"]), "joint_names": tuple(names)}
        fields["parents"] = mapped("parents", range(len(names)))
        fields["torso"] = tuple(joint("torso", name) for name in description["torso"])
        fields["angle_partners"] = mapped("angle_partners", fields["parents"])
        for key in ("edges", "left_right"):
            if description.get(key) is not None:
                fields[key] = tuple(tuple(joint(key, end) for end in pair) for pair in description[key])
        if description.get("center") is not None:
            fields["center"] = joint("center", description["center"])
        if description.get("third") is not None:
            fields["third"] = description["third"]
        return cls(**fields)

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> SkeletonLayout:
        """Reads a layout from a YAML file with the keys of :meth:`from_dict`."""
        import yaml  # only needed here, and not by the operations

        return cls.from_dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # the way to complete a frozen dataclass

    def _refuse(self, reason: str) -> None:
        raise ValueError(f"layout {self.name!r}: {reason}")

    def _joints(self, field: str, joints: Sequence[int], count: int) -> tuple[Any, ...]:
        joints = tuple(joints)
        if len(joints) != count:
            self._refuse(f"{field} must have {count} entries, got {len(joints)}")
        for joint in joints:
            if isinstance(joint, bool) or not isinstance(joint, int) or not 0 <= joint < self.num_joints:
                self._refuse(f"{field} names the unknown joint {joint!r}; joints are 0 to {self.num_joints - 1}")
        return joints

    def _named_pairs(self) -> list[tuple[int, int]]:
        index = {name: joint for joint, name in enumerate(self.joint_names)}
        pairs = ((name, "right_" + name.removeprefix("left_")) for name in index if name.startswith("left_"))
        return [(index[left], index[right]) for left, right in pairs if right in index]

    def _check_tree(self) -> None:
        roots = [joint for joint, parent in enumerate(self.parents) if joint == parent]
        if len(roots) > 1:
            names = [self.joint_names[root] for root in roots]
            self._refuse(f"parents must have one root (a joint that is its own parent), got {names}")
        for start in range(self.num_joints):
            path = [start]
            while self.parents[path[-1]] != path[-1]:
                path.append(self.parents[path[-1]])
                if path[-1] in path[:-1]:
                    cycle = path[path.index(path[-1]) :]
                    self._refuse("parents hold a cycle: " + " -> ".join(self.joint_names[j] for j in cycle))

    def _check_graph(self) -> None:
        loops = [self.joint_names[a] for a, b in self.edges if a == b]
        if loops:
            self._refuse(f"edges must join two different joints, got loops at {loops}")
        distances = self.distances(self.center)
        unreached = [name for name, distance in zip(self.joint_names, distances, strict=True) if distance < 0]
        if unreached:
            self._refuse(f"edges are disconnected: no path from {self.joint_names[self.center]!r} to {unreached}")


def get_layout(layout: str | SkeletonLayout) -> SkeletonLayout:
    """The built-in layout of that name; a :class:`SkeletonLayout` is returned as it is.

    Raises:
        ValueError: no built-in layout has that name.
        TypeError: ``layout`` is neither a name nor a layout.

    Example:
        >>> get_layout("ntu25").joint_names[20]
        'spine_shoulder'
    """
    from .layouts import LAYOUTS  # made of the class above

    if isinstance(layout, SkeletonLayout):
        return layout
    if not isinstance(layout, str):
        raise TypeError(f"layout must be a SkeletonLayout or its name, got {type(layout).__name__}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {sorted(LAYOUTS)} or a SkeletonLayout, got {layout!r}")
    return LAYOUTS[layout]
