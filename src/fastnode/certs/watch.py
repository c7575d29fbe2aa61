"""Certificate files that are followed while nodes run."""

from __future__ import annotations

import atexit
import hashlib
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from fastnode.certs.certificate import Certificate
from fastnode.certs.file_changes import changes
from fastnode.certs.pool import CertPool
from fastnode.certs.private_key import Password
from fastnode.errors import CertificateLoadError, ConfigError, FastnodeError

if TYPE_CHECKING:
    from fastnode.certs.manager import CertAuthManager, CertManager

__all__ = ["CertificateWatch"]

log = logging.getLogger("fastnode.certs")

_File: TypeAlias = str | os.PathLike[str]
_Content: TypeAlias = bytes | OSError

#: Seconds after which what was not taken is tried again though it has not changed: a
#: password may have become known, a descriptor free.
RETRY_SECONDS: Final = 30.0
#: How often a read is begun anew because a symbolic link moved under it.
READ_ATTEMPTS: Final = 5
#: How much bad content is remembered, so that each is warned of once.
REMEMBERED: Final = 64
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
        self._parts: tuple[_Part, ...] = (
            _Pair(manager, _absolute(cert_file), key_file, password),
        )
        if trust is not None:
            # First: peers that show what the new authority signed, and the new pair
            # of this node, come after it.
            self._parts = (_Trust(trust[0], _absolute(trust[1])), *self._parts)
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
            contents = _read(self._files)
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
        contents = _read(self._files)
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


class _Part:
    """Files that are only good together."""

    what = ""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files = files
        self._taken = b""
        self._prepared = b""
        self._warned: deque[bytes] = deque(maxlen=REMEMBERED)
        self._retry_at = 0.0

    def prepare(self, contents: dict[Path, _Content]) -> None:
        """Parse and judge what the files hold.

        Raises:
            FastnodeError: it cannot be used.
        """
        data = []
        for file in self.files:
            content = contents[file]
            if isinstance(content, OSError):
                raise CertificateLoadError(
                    f"{file}: {content.strerror or content}",
                    hint="check the path and its permissions",
                )
            data.append(content)
        self.parse(*data)
        self._prepared = _digest(contents[file] for file in self.files)

    def install(self) -> bool:
        """Give what was prepared to the manager; return whether it was news."""
        news = self.take()
        self._taken = self._prepared
        self._warned.clear()
        return news

    def follow(self, contents: dict[Path, _Content]) -> bool:
        """Take what changed, if it is good; return whether it was news."""
        digest = _digest(contents[file] for file in self.files)
        if digest == self._taken:
            if self._warned:
                log.info("%s: as before again", self._names())
                self._warned.clear()
            return False
        known = digest in self._warned
        if known and time.monotonic() < self._retry_at:
            return False
        try:
            self.prepare(contents)
            return self.install()
        except FastnodeError as error:
            said, unexpected = str(error), False
        except Exception as error:
            # Not its text: nobody knows what it quotes.
            said, unexpected = type(error).__name__, True
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not known:
            self._warned.append(digest)
            log.log(
                logging.ERROR if unexpected else logging.WARNING,
                "%s: not taken, %s in use stays until the files are in order: %s",
                self._names(),
                self.what,
                said,
            )
        return False

    def parse(self, *data: bytes) -> None:
        """Make of the files' content what `take` takes."""
        raise NotImplementedError

    def take(self) -> bool:
        """Give it to the manager; return whether it was news."""
        raise NotImplementedError

    def _names(self) -> str:
        return ", ".join(map(str, self.files))


class _Pair(_Part):
    what = "the certificate"

    def __init__(
        self,
        manager: CertManager,
        cert_file: Path,
        key_file: _File | None,
        password: Password,
    ) -> None:
        both = cert_file, cert_file if key_file is None else _absolute(key_file)
        super().__init__(tuple(dict.fromkeys(both)))
        self._manager = manager
        self._password = password
        self._new: Certificate | None = None

    def parse(self, *data: bytes) -> None:
        new = Certificate.from_named(
            data[0], data[-1], self._password, str(self.files[0]), str(self.files[-1])
        )
        self._manager.check_update(new)
        self._new = new

    def take(self) -> bool:
        new, self._new = self._new, None
        assert new is not None
        if new == self._manager.certificate:
            return False
        self._manager.update(new)
        return True


class _Trust(_Part):
    what = "the trust"

    def __init__(self, manager: CertAuthManager, ca_file: Path) -> None:
        super().__init__((ca_file,))
        self._manager = manager
        self._new: Callable[[], CertPool] = CertPool

    def parse(self, *data: bytes) -> None:
        def make() -> CertPool:
            return CertPool.from_named(data[0], str(self.files[0]))

        make()
        self._new = make

    def take(self) -> bool:
        old = self._manager.client_cas, self._manager.root_cas
        new = self._new(), self._new()
        news = False
        for before, after in zip(old, new, strict=True):
            if before is None:
                news = True
                continue
            news |= before.is_system
            news |= set(before.certificates) != set(after.certificates)
            # What was revoked stays revoked.
            after.take_crls_of(before)
        if news:
            self._manager.replace_trust(*new)
        return news


def _absolute(file: _File) -> Path:
    # The working directory may be another one when the files are read again.
    return Path(file).absolute()


def _read(files: tuple[Path, ...]) -> dict[Path, _Content]:
    """What the files hold at one moment, as far as symbolic links tell moments apart:
    Kubernetes swaps all files at once by moving one link."""
    for _ in range(READ_ATTEMPTS):
        before = [os.path.realpath(file) for file in files]
        contents = {file: _content(file) for file in files}
        if before == [os.path.realpath(file) for file in files]:
            break
    return contents


def _content(file: Path) -> _Content:
    try:
        return file.read_bytes()
    except OSError as error:
        return error


def _digest(contents: Iterable[_Content]) -> bytes:
    """Tells contents apart without keeping them: one of them is a private key."""
    digest = hashlib.sha256()
    for content in contents:
        held = content if isinstance(content, bytes) else repr(content.errno).encode()
        kind = b"content" if isinstance(content, bytes) else b"error"
        digest.update(b"%s %d\n" % (kind, len(held)))
        digest.update(held)
    return digest.digest()


#: A daemon thread that comes back from a library while the interpreter ends can crash
#: it: those that still run are ended before.
_running: weakref.WeakSet[CertificateWatch] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for watch in list(_running):
        watch.close()
