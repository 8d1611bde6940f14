"""The configuration as it lies in a run, and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ikem.config.run import Config
from ikem.files import write_text


def plain(config: Any) -> Any:
    """Return a dataclass as nested dictionaries of YAML's own types.

    Example:
        >>> plain(Config(run=Path("runs/x")))["run"]
        'runs/x'
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {item.name: plain(getattr(config, item.name)) for item in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries as dotted names and values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# The sections that a command's outputs follow from. `run` and `trainer` say where, not what.
SECTIONS = {
    "pretrain": ("seed", "data", "views", "encoder", "pretrain"),
    "distill": ("seed", "data", "views", "encoder", "pretrain", "distill"),
    "finetune": ("seed", "data", "views", "encoder", "pretrain", "finetune"),
}


def config_folder(config: Config, command: str) -> Path:
    """Return where the configuration that a command's results follow from is stored.

    It is the run's folder; of a finetuning, which may be one of several in a run, its own.
    """
    return config.run / command / config.finetune.name if command == "finetune" else config.run


def differences(config: Config, command: str) -> dict[str, tuple[Any, Any]]:
    """Return in what a configuration differs from the one that a command's results follow from.

    Args:
        config: the resolved configuration.
        command: ``pretrain``, ``distill`` or ``finetune``.

    Returns:
        Dotted name -> the stored value and the given one; empty where there is nothing yet. An option that came after
        the run was stored is taken to have been at its default, which changes nothing.
    """
    path = config_folder(config, command) / "config.yaml"
    if not path.is_file():
        return {}
    stored = {**dict(flatten(plain(Config()))), **dict(flatten(yaml.safe_load(path.read_text())))}
    given = dict(flatten(plain(config)))
    done = [section for section in SECTIONS[command] if section != command or (config.run / command).exists()]
    return {
        name: (stored.get(name), given.get(name))
        for name in dict.fromkeys([*stored, *given])
        if name.split(".")[0] in done and stored.get(name) != given.get(name)
    }


def store_config(config: Config, command: str) -> None:
    """Write the resolved configuration to where a command's results lie."""
    write_text(config_folder(config, command) / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
