"""Checks of the seconds that a test gives."""

from __future__ import annotations

from math import isinf

from fastnode import ConfigError
from fastnode.names import check_timeout

__all__ = ["check_seconds"]


def check_seconds(what: str, seconds: object) -> float:
    """Return a number of seconds, checked.

    Args:
        what: names the seconds in the error.

    Raises:
        ConfigError: it is not a number, or below 0, or infinite.
    """
    try:
        value = check_timeout(seconds)
    except ConfigError:
        value = float("inf")
    if isinf(value):
        raise ConfigError(
            f"{what} is {seconds!r}", hint="it is a number of seconds, from 0"
        )
    return value
