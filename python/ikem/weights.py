"""From a file of weights alone to encoders by modality, whoever wrote it.

A file that does not fit is refused, and the message names what is missing, unexpected or of another shape: an encoder
that is loaded in part gives numbers that look like results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ikem.checkpoint import DESCRIPTION, load_encoders, read_torch_file, require_finite, weights_within
from ikem.config import EncoderConfig
from ikem.encoders import STGCN, Encoder, build_encoder, load_published_state_dict
from ikem_ext import SkeletonLayout

#: The encoders in the state dicts that CrosSCLR, AimCLR and the method's own code release, by modality.
PUBLISHED_ENCODERS = {
    "encoder_q": "joint",
    "encoder_q_motion": "motion",
    "encoder_q_bone": "bone",
    "encoder_q_acceleration": "acceleration",
    "encoder_q_rotation_axis": "rotation_axis",
    "encoder_q_omega": "angular_velocity",
}
PUBLISHED_STUDENT = {"encoder_student_j": "joint", "encoder_student_m": "motion", "encoder_student_b": "bone"}
PUBLISHED_OTHERS = ("encoder_k", "queue", "mlp2")  # key encoders, queues and exchange heads: no part of what is used
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


@dataclass(frozen=True)
class Weights:
    """Encoders that were read from a file.

    Attributes:
        stage: of the training that they come from: ``stage1``, ``stage2``, ``student``, ``finetuned``, ``exported``
            or ``published``.
        encoders: by modality, in eval mode.
        config: of the encoders.
        layout: of the skeletons that they see.
        epochs: how long they were trained; None where the file does not say.
        heads: of a published file, the entries ``fc`` or ``fcn`` by modality: a classifier, or a projection.
        left_out: of a published file, whose entries serve its training alone, such as key encoders and queues.
    """

    stage: str
    encoders: dict[str, Encoder]
    config: EncoderConfig
    layout: SkeletonLayout
    epochs: int | None = None
    heads: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read_weights(
    path: Path, layout: SkeletonLayout, config: EncoderConfig | None = None, modality: str = "joint"
) -> Weights:
    """Read encoders from a checkpoint, an export or a published state dict.

    Args:
        path: a checkpoint of `ikem pretrain`, `distill` or `finetune`, an ``encoders.safetensors``, or a state dict as
            CrosSCLR, AimCLR and IKEM release them, whole or that of one encoder.
        layout: of the skeletons that a published encoder sees.
        config: of a published encoder; the others say themselves what they are. By default as published.
        modality: of a published encoder that stands alone, which does not say.

    Raises:
        ValueError: if there is no such file, it is none of these, or its weights do not fit or are not finite.
    """
    description, content = _read(path)
    if description is None:
        return published_weights(path, _state_of(path, content), layout, config or EncoderConfig(), modality)
    return _of_export(path, description) if path.suffix == ".safetensors" else _of_checkpoint(path, content)


def read_published(path: Path) -> dict[str, Tensor]:
    """Read a published state dict, its names without what DataParallel and torch.compile put before them.

    Raises:
        ValueError: if there is no such file, it is something else or of this project, or holds numbers that are not
            finite.
    """
    description, content = _read(path)
    if description is not None:
        raise ValueError(f"file: {path} is of this project already")
    return _state_of(path, content)


def _read(path: Path) -> tuple[Any, Any]:
    """Return what a file of this project says of itself, None of another, and its content."""
    if not path.is_file():
        raise ValueError(f"checkpoint: there is no file {path}")
    if path.suffix != ".safetensors":
        content = read_torch_file(path)
        return content.get(DESCRIPTION), content
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} is not a file of safetensors: {error}") from error
    return json.loads(metadata[DESCRIPTION]) if DESCRIPTION in metadata else None, state


def _of_export(path: Path, description: Mapping[str, Any]) -> Weights:
    trained_on = SkeletonLayout.from_dict(description["layout"])
    try:
        encoders = load_encoders(path)
    except RuntimeError as error:
        raise ValueError(f"checkpoint: {path} does not fit: {error}") from error
    return Weights("exported", encoders, EncoderConfig(**description["encoder"]), trained_on)


def _of_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> Weights:
    description = checkpoint[DESCRIPTION]
    require_finite(path, checkpoint["state_dict"])
    kind, streams = description["kind"], {"pretrain": "query", "distill": "student", "finetune": "streams"}
    if kind not in streams:
        raise ValueError(f"checkpoint: expected one of {', '.join(streams)}, {path} is one of {kind}")
    config, layout = EncoderConfig(**description["encoder"]), SkeletonLayout.from_dict(description["layout"])
    state = weights_within(checkpoint["state_dict"], streams[kind])
    encoders = {
        modality: _filled(path, config, layout, weights_within(state, f"{modality}.encoder"))
        for modality in description[kind]["modalities"]
    }
    stage = {"distill": "student", "finetune": "finetuned"}.get(kind) or f"stage{description['stage']}"
    return Weights(stage, encoders, config, layout, description["epochs"])


def _state_of(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"checkpoint: {path} holds neither a checkpoint of this project nor a state dict")
    require_finite(path, content)
    return {_unwrapped(name): value for name, value in content.items()}


def published_weights(
    path: Path, state: Mapping[str, Tensor], layout: SkeletonLayout, config: EncoderConfig, modality: str
) -> Weights:
    """Build the encoders of a published state dict.

    Args:
        path: its file, for messages.
        state: what :func:`read_published` returns.
        layout: of the skeletons.
        config: of the encoders.
        modality: of an encoder that stands alone.

    Raises:
        ValueError: if the weights do not fit.
    """
    if config.architecture != "st_gcn":
        raise ValueError(f"encoder.architecture: expected st_gcn for a published file, got {config.architecture}")
    owners = {name.partition(".")[0] for name in state}
    known = PUBLISHED_STUDENT if owners & set(PUBLISHED_STUDENT) else PUBLISHED_ENCODERS
    if not owners & set(known):  # one encoder alone
        groups, unused = {modality: dict(state)}, set()
    else:
        groups = {known[owner]: weights_within(state, owner) for owner in known if owner in owners}
        named = {*PUBLISHED_STUDENT, *PUBLISHED_ENCODERS}
        unused = owners - set(known)
        others = [owner for owner in owners - named if not owner.startswith(PUBLISHED_OTHERS)]
        if others:
            raise ValueError(f"checkpoint: {path} does not fit; unexpected: {', '.join(sorted(others))}")
    if set(groups) == {"joint"}:
        groups = {modality: groups["joint"]}
    built = {name: _published(path, config, layout, part) for name, part in groups.items()}
    encoders = {name: encoder for name, (encoder, _) in built.items()}
    heads = {name: head for name, (_, head) in built.items() if head}
    return Weights("published", encoders, config, layout, heads=heads, left_out=tuple(sorted(unused)))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if f"{part}." not in WRAPPERS)


def _published(
    path: Path, config: EncoderConfig, layout: SkeletonLayout, state: Mapping[str, Tensor]
) -> tuple[Encoder, dict[str, Tensor]]:
    encoder = build_encoder(config, layout)
    assert isinstance(encoder, STGCN)
    try:
        head = load_published_state_dict(encoder, state)
    except RuntimeError as error:
        raise ValueError(f"checkpoint: {path} does not fit: {error}") from error
    return encoder.eval(), head


def _filled(path: Path, config: EncoderConfig, layout: SkeletonLayout, state: Mapping[str, Tensor]) -> Encoder:
    encoder = build_encoder(config, layout)
    try:
        encoder.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"checkpoint: {path} does not fit: {error}") from error
    return encoder.eval()
