"""The player: clips as the page carries them, for `player.js` to draw."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ikem.report.clips import ShownClip, on_stage
from ikem.report.plots.style import BLACK, BLUE, GREEN, MODALITY_TITLES, ORANGE, PURPLE, SKY, STRENGTH_COLORS, VERMILION
from ikem_ext import MODALITIES
from ikem_ext.skeleton import SkeletonLayout

__all__ = ["player"]

_LOST = np.iinfo(np.int16).min  # stands for NaN
_SIDES = {"left": BLUE, "right": VERMILION, "middle": BLACK}
_BODIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, STRENGTH_COLORS, VERMILION)


def player(groups: Mapping[str, Sequence[ShownClip]], name: str = "clips") -> str:
    """The HTML of a player, to be put into a page that has the player's script and style.

    Args:
        groups: the clips to choose from, by what is said of them; of one group nothing is said.
        name: of the player, different from that of all others on the page.
    """
    clips = [clip for group in groups.values() for clip in group]
    layouts = list(dict.fromkeys(clip.layout for clip in clips))
    content = {
        "clips": [
            {**_clip(clip), "layout": layouts.index(clip.layout), "group": title if len(groups) > 1 else ""}
            for title, group in groups.items()
            for clip in group
        ],
        "layouts": [_layout(layout) for layout in layouts],
        "modalities": [{"name": name, "title": MODALITY_TITLES[name]} for name in MODALITIES],
        "colors": {"sides": _SIDES, "bodies": _BODIES, "strength": STRENGTH_COLORS},
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    name = html.escape(name)
    return (
        f'<div class="player" data-clips="{name}"></div>\n<script type="application/json" id="{name}">{text}</script>\n'
    )


def _layout(layout: SkeletonLayout) -> dict[str, Any]:
    return {
        "name": layout.name,
        "joints": [name.replace("_", " ") for name in layout.joint_names],
        "parents": list(layout.parents),
        "sides": [next((side for side in ("left", "right") if joint.startswith(side)), "middle")
                  for joint in layout.joint_names],
        "deep": layout.third == "depth",
    }  # fmt: skip


def _clip(clip: ShownClip) -> dict[str, Any]:
    _, frames, _, bodies = clip.joints.shape
    return {
        "name": clip.name,
        "frames": frames,
        "bodies": bodies,
        "recorded": clip.num_frames,
        "fps": clip.fps,
        "label": clip.label,
        "guesses": [[name, round(probability, 4)] for name, probability in clip.guesses],
        "places": _packed(on_stage(clip.places, clip.layout)),
        "values": {
            name: {
                **_packed(on_stage(values, clip.layout)),
                "strength": clip.strength(name),
                "range": clip.range(name),
            }
            for name, values in zip(MODALITIES, clip.modalities, strict=True)
        },
    }


def _packed(values: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Values (3, T, V, M) as 16-bit integers (T, M, V, 3) in base64, and what they are to be multiplied by."""
    values = values.transpose(1, 3, 2, 0)
    scale = float(np.nanmax(np.abs(values), initial=0)) / np.iinfo(np.int16).max or 1.0
    whole = np.where(np.isnan(values), _LOST, np.round(values / scale)).astype("<i2")
    return {"data": base64.b64encode(whole.tobytes()).decode(), "scale": scale}
