"""What is asked of all parts of a study's file; a message names the part, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ikem.config.checks import require


def mapping(where: str, given: Any, allowed: Sequence[str] | None = None) -> dict[Any, Any]:
    """Return names and values, of which only the allowed names may be there."""
    require(isinstance(given, dict), f"{where}: expected names and values, got {given!r}")
    unknown = [str(name) for name in given if allowed is not None and name not in allowed]
    require(not unknown, f"{where}: expected {', '.join(allowed or ())}, got {', '.join(unknown)}")
    return dict(given)


def require_different(where: str, values: Sequence[Any]) -> None:
    """Refuse what is there twice."""
    for position, value in enumerate(values):
        require(value not in values[:position], f"{where}: {value} is there twice")
