"""Files of configurations: found by path or by name, each with what it says of its own and what it extends.

A file may begin with ``extends: NAME`` or ``extends: FILE``, a path from where it lies itself. It then is that
configuration with its own options in place of the same ones: sections are joined option by option, anything else,
lists too, is replaced. So a chain of files says each thing once.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader


class ConfigFile(NamedTuple):
    """A file and its own options, without those of the files that it extends."""

    path: Path
    options: dict[str, Any]


def named_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    return _named_files("configs")


def find_config(name: str) -> Path:
    """Return the file of a configuration given by name or path.

    Raises:
        ValueError: if there is no such file and no such name.

    Example:
        >>> find_config("ntu60-xsub").name
        'ntu60-xsub.yaml'
    """
    return _find("config", name, Path(name), named_configs())


def read_config(name: str) -> list[ConfigFile]:
    """Read the file of a configuration and those that it extends.

    Args:
        name: a name or a path, as of :func:`find_config`.

    Returns:
        The files, the farthest base first: each one's options take the place of those before it. Whether there are
        such options is for the parser to say.

    Raises:
        ValueError: if a file is not there, cannot be read as names and values, or extends itself by way of others.

    Example:
        >>> [file.path.name for file in read_config("ntu60-xsub")]
        ['ntu.yaml', 'ntu60-xsub.yaml']
    """
    files = [_read(find_config(name))]
    while (base := files[0].options.pop("extends", None)) is not None:
        path = _find_base(files[0].path, base)
        chain = [file.path for file in reversed(files)]
        if path.resolve() in [known.resolve() for known in chain]:
            raise ValueError(f"extends: expected an end, got a circle: {' -> '.join(map(str, [*chain, path]))}")
        files.insert(0, _read(path))
    return files


def _find_base(path: Path, base: Any) -> Path:
    """Return the file that the one at ``path`` extends; there are bases that are no configurations of their own."""
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends: expected one name or file, got {base!r}")
    return _find(f"{path}: extends", base, path.parent / base, {**_named_files("configs/bases"), **named_configs()})


def _find(where: str, name: str, path: Path, named: dict[str, Path]) -> Path:
    if path.is_file():
        return path
    if name in named:
        return named[name]
    raise ValueError(f"{where}: expected a YAML file or one of {', '.join(named)}, got {name!r}")


def _named_files(folder: str) -> dict[str, Path]:
    entries = (resources.files("ikem") / folder).iterdir()
    paths = {path.stem: path for entry in entries if (path := Path(str(entry))).suffix == ".yaml"}
    return dict(sorted(paths.items()))


def _read(path: Path) -> ConfigFile:
    try:
        options = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: expected names and values, got {options!r}")
    return ConfigFile(path, options)
