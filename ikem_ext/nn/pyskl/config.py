"""Norms and activations by the names and mappings that PYSKL hands to mmcv, which is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

# What mmcv builds of these names.
_NORMS = {
    "BN": nn.BatchNorm2d,
    "BN2d": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "IN": nn.InstanceNorm2d,
    "IN2d": nn.InstanceNorm2d,
    "GN": nn.GroupNorm,
}
_ACTIVATIONS = {
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "RReLU": nn.RReLU,
    "ReLU6": nn.ReLU6,
    "ELU": nn.ELU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "HSwish": nn.Hardswish,
}

Config = str | Mapping[str, Any]


def norm_of(config: Config | None, channels: int) -> nn.Module:
    """The normalization of that name, or of that ``type`` and options; None for none."""
    if config is None:
        return nn.Identity()
    options = _options(config)
    learned = options.pop("requires_grad", True)
    size = "num_channels" if options.get("type") == "GN" else "num_features"
    return _built("norm", {size: channels, **options}, _NORMS).requires_grad_(learned)


def activation_of(argument: str, config: Config | None) -> nn.Module:
    """The activation of that name, or of that ``type`` and options, given as an argument; None for none."""
    return nn.Identity() if config is None else _built(argument, _options(config), _ACTIVATIONS)


def _options(config: Config) -> dict[str, Any]:
    return {"type": config} if isinstance(config, str) else dict(config)


def _built(argument: str, options: dict[str, Any], known: Mapping[str, type[nn.Module]]) -> nn.Module:
    """The module that ``type`` names, made with the other options."""
    name = options.pop("type", None)
    if name not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {name!r}")
    return known[name](**options)
