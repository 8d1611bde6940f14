"""What a checkpoint says about itself, and the way from a checkpoint or an export to encoders.

Checkpoints are read with ``weights_only=True``: they hold tensors and plain values, and run no code.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from ikem.config import EncoderConfig, plain
from ikem.encoders import Encoder, build_encoder
from ikem.files import replacing
from ikem_ext import SkeletonLayout

DESCRIPTION = "ikem"  # the key of a checkpoint under which the description of its module stands


def read_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of this project.

    Args:
        path: the file.
        kind: ``pretrain``, ``distill`` or ``finetune``.

    Raises:
        ValueError: if there is no such file, it is not a checkpoint of that kind, or its weights are not finite.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint: expected a checkpoint of `ikem {kind}`, there is no file {path}")
    checkpoint = read_torch_file(path)
    found = checkpoint.get(DESCRIPTION, {}).get("kind")
    if found != kind:
        raise ValueError(f"checkpoint: expected one of `ikem {kind}`, {path} is one of {found or 'something else'}")
    require_finite(path, checkpoint["state_dict"])
    return checkpoint


def first_non_finite(values: Any) -> str | None:
    """Return the dotted name of the first tensor with a number that is not finite, in nested dictionaries and lists.

    Example:
        >>> first_non_finite({"encoder": {"weight": torch.ones(2), "bias": torch.tensor([0.0, float("nan")])}})
        'encoder.bias'
    """
    tensors = {
        ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys): value
        for keys, value in tree_flatten_with_path(values)[0]
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    bad: set[str] = set()
    for device in {value.device for value in tensors.values()}:  # an optimizer's state may lie on more than one
        names = [name for name, value in tensors.items() if value.device == device]
        finite = torch.stack([_is_finite(tensors[name]) for name in names]).tolist()  # one wait for the device
        bad.update(name for name, good in zip(names, finite, strict=True) if not good)
    return next((name for name in tensors if name in bad), None)


def _is_finite(values: Tensor, piece: int = 2**22) -> Tensor:
    """Return whether all are, piece by piece: there may be no memory for a second array as large as a queue."""
    return torch.stack([each.isfinite().all() for each in values.flatten().split(piece)]).all()


def require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite, and name the first of them."""
    if name := first_non_finite(weights):
        raise ValueError(f"checkpoint: {path} is of no use: {name} holds numbers that are not finite")


def weights_within(weights: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """Return the weights of a part of a module, under the names that they have there.

    Example:
        >>> weights_within({"query.bone.bias": torch.ones(1), "queue.pointer": torch.zeros(())}, "query")
        {'bone.bias': tensor([1.])}
    """
    prefix = f"{module}."
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a dictionary that was written by PyTorch, whatever is in it, without running any code.

    Raises:
        ValueError: if the file is something else.
    """
    try:
        # Files of the format before PyTorch 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # bytes of another kind end in any error of the unpickler
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"checkpoint: {path} is not a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint: {path} is not a checkpoint: expected a dictionary, got {type(content).__name__}")
    return content


def export_modules(
    path: Path, modules: Mapping[str, nn.Module], config: EncoderConfig, layout: SkeletonLayout, **more: Any
) -> None:
    """Write encoders by modality, or modules that hold one each, as safetensors.

    Args:
        path: of the file.
        modules: by modality.
        config: of the encoders; with the layout it is what :func:`load_encoders` needs to rebuild them.
        layout: of the skeletons.
        more: what else the description says, of JSON's own types.
    """
    weights = {
        f"{modality}.{name}": value.detach().cpu().contiguous()
        for modality, module in modules.items()
        for name, value in module.state_dict().items()
    }
    metadata = {"modalities": list(modules), "encoder": plain(config), "layout": layout.to_dict(), **more}
    with replacing(path) as temporary:
        temporary.write_bytes(save(weights, {DESCRIPTION: json.dumps(metadata)}))


def read_modules(path: Path | str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read what :func:`export_modules` wrote: the description, and the weights of each modality's module.

    Raises:
        ValueError: if a weight is not finite.
    """
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[DESCRIPTION])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    require_finite(Path(path), weights)
    return description, {modality: weights_within(weights, modality) for modality in description["modalities"]}


def load_encoders(path: Path | str) -> dict[str, Encoder]:
    """Load the trained encoders that lie beside a run's checkpoints as ``encoders.safetensors``.

    Returns:
        Modality -> encoder in eval mode, which maps (N, 3, T, V, M) to features (N, F).

    Raises:
        ValueError: if a weight is not finite.
    """
    description, weights = read_modules(path)
    layout = SkeletonLayout.from_dict(description["layout"])
    encoders: dict[str, Encoder] = {}
    for modality, state in weights.items():
        encoder = build_encoder(EncoderConfig(**description["encoder"]), layout)
        encoder.load_state_dict(state)
        encoders[modality] = encoder.eval()
    return encoders
