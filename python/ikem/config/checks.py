"""What options are asked for; a message names the option, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence


def require(condition: bool, message: str) -> None:
    """Raise a ValueError unless a condition holds."""
    if not condition:
        raise ValueError(message)


def require_at_least(name: str, value: float, least: int) -> None:
    """Refuse a number that is too small."""
    require(value >= least, f"{name}: expected at least {least}, got {value}")


def require_positive(name: str, value: float) -> None:
    """Refuse a number that is not greater than 0, or not finite."""
    require(value > 0, f"{name}: expected > 0, got {value}")
    require(value < math.inf, f"{name}: expected a finite number, got {value}")


def require_not_negative(name: str, value: float) -> None:
    """Refuse a number that is less than 0, or not finite."""
    require(value >= 0, f"{name}: expected >= 0, got {value}")
    require(value < math.inf, f"{name}: expected a finite number, got {value}")


def require_share(name: str, value: float) -> None:
    """Refuse what is no part of a whole, nor all of it."""
    require(0 < value <= 1, f"{name}: expected in (0, 1], got {value}")


def require_shares(name: str, values: Sequence[float]) -> None:
    """Refuse what are no shares, or not each of them once."""
    require(
        all(0 < share <= 1 for share in values) and len(set(values)) == len(values),
        f"{name}: expected different shares in (0, 1], got {list(values)}",
    )


def require_one_of(name: str, value: str, words: Sequence[str]) -> None:
    """Refuse a word that is none of those that are known."""
    *others, last = words
    require(value in words, f"{name}: expected {', '.join(others)} or {last}, got {value}")
