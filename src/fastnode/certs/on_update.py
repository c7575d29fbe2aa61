"""Tells the program that followed files have changed, and what was taken of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from inspect import getattr_static, iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fastnode.errors import ConfigError
from fastnode.loggers import fields

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate

__all__ = ["OnUpdate", "WatchUpdate", "check_on_update", "tell"]

log = logging.getLogger("fastnode.certs")


@dataclass(frozen=True, slots=True)
class WatchUpdate:
    """What a `CertificateWatch` has just taken from changed files. It is in use.

    Attributes:
        certificate: the new certificate; None if only the authorities have changed.
        trust: whether the authorities have changed.
        files: the files that hold what was taken.
    """

    certificate: Certificate | None
    trust: bool
    files: tuple[Path, ...]


#: A plain function of the user.
OnUpdate: TypeAlias = Callable[[WatchUpdate], object]


def check_on_update(value: object) -> None:
    """Raise `ConfigError` unless `value` is None or a plain function."""
    if value is None:
        return
    if not callable(value):
        raise ConfigError(
            f"on_update is {value!r}, which cannot be called",
            hint="a function that takes a WatchUpdate, or None",
        )
    call = getattr_static(type(value), "__call__", None)
    if iscoroutinefunction(value) or iscoroutinefunction(call):
        raise ConfigError(
            "on_update is an async function, and must be a plain one",
            hint="it runs in a thread; asyncio.run_coroutine_threadsafe(..., loop) "
            "runs a coroutine in a loop",
        )


def tell(callback: OnUpdate, update: WatchUpdate, *, own_thread: bool) -> None:
    """Call `on_update`, and log what it raises.

    Args:
        own_thread: whether this is the thread of the watch, which goes on whatever is
            raised. In a thread of the user, Ctrl-C and `sys.exit` end the program.
    """
    try:
        callback(update)
    except BaseException as error:
        log.error(
            "the on_update callback raised: %r",
            callback,
            exc_info=error,
            extra=fields("hook_failed", hook="on_update", error=error),
        )
        if not (own_thread or isinstance(error, Exception)):
            raise
