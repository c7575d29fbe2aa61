"""Certificate files that are followed while nodes run."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from fastnode.certs.file_changes import changes
from fastnode.certs.followed_files import (
    FollowedFiles,
    FollowedPair,
    FollowedTrust,
    read_files,
)
from fastnode.certs.private_key import Password
from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from fastnode.certs.manager import CertAuthManager, CertManager

__all__ = ["CertificateWatch"]

log = logging.getLogger("fastnode.certs")

_File: TypeAlias = str | os.PathLike[str]

#: Seconds that `close` waits for a thread that is busy, say with a password callable.
CLOSE_SECONDS: Final = 5.0


class CertificateWatch:
    """Follows certificate files, and gives what they hold to a manager.

    Made by `CertManager.watch`. The files were loaded when it is made; from then on a
    daemon thread follows them until `close`, or the end of the process. The watch may
    be used as a context manager, and lives on without a reference to it.

    A pair that does not fit (half-written, the key before its certificate, expired)
    is not taken: a warning says so once, and the old one stays in use until the files
    are in order.
    """

    def __init__(
        self,
        manager: CertManager,
        cert_file: _File,
        key_file: _File | None = None,
        *,
        password: Password = None,
        interval: float = 1.0,
        trust: tuple[CertAuthManager, _File] | None = None,
    ) -> None:
        if (
            isinstance(interval, bool)
            or not isinstance(interval, int | float)
            or not math.isfinite(interval)
            or not 0.01 <= interval <= 86400
        ):
            raise ConfigError(
                f"interval is {interval!r}", hint="seconds, from 0.01 to 86400"
            )
        self._interval = interval
        self._parts: tuple[FollowedFiles, ...] = (
            FollowedPair(
                manager,
                _absolute(cert_file),
                None if key_file is None else _absolute(key_file),
                password,
            ),
        )
        if trust is not None:
            # First: peers that show what the new authority signed, and the new pair
            # of this node, come after it.
            self._parts = (FollowedTrust(trust[0], _absolute(trust[1])), *self._parts)
        self._files = tuple(
            dict.fromkeys(file for part in self._parts for file in part.files)
        )
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._load()
        self._thread = threading.Thread(
            target=self._run, name="fastnode-certificate-watch", daemon=True
        )
        _running.add(self)
        self._thread.start()
        log.info("following %s", ", ".join(map(str, self._files)))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are followed."""
        return self._files

    @property
    def closed(self) -> bool:
        """Whether the files are no longer followed."""
        return self._stop.is_set()

    def check(self) -> bool:
        """Look at the files now, in this thread; return whether something was taken.

        What is wrong with them is logged, never raised. Safe from any thread.
        """
        with self._lock:
            contents = read_files(self._files)
            taken = False
            for part in self._parts:
                if self._stop.is_set():
                    break
                taken = part.follow(contents) or taken
            return taken

    def close(self) -> None:
        """Follow the files no longer; the manager keeps what it has."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"every {self._interval:g} s"
        return f"<CertificateWatch: {', '.join(map(str, self._files))}, {state}>"

    def _load(self) -> None:
        """Take the files as they are, all or nothing, or raise."""
        contents = read_files(self._files)
        for part in self._parts:
            part.prepare(contents)
        for part in self._parts:
            part.install()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for _change in changes(self._files, self._interval, self._stop):
                    self.check()
            except Exception:
                log.exception("certificate files could not be followed; going on")
                self._stop.wait(self._interval)


def _absolute(file: _File) -> Path:
    # The working directory may be another one when the files are read again.
    return Path(file).absolute()


#: A daemon thread that comes back from a library while the interpreter ends can crash
#: it: those that still run are ended before.
_running: weakref.WeakSet[CertificateWatch] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for watch in list(_running):
        watch.close()
