"""It follows certificate files while nodes run.

How it works. A `CertificateWatch` has a thread, which waits in `file_changes` until
files may have changed, and then reads all of them. Files that belong together, such as
a certificate and its key, are one `FollowedFiles`. It compares digests, so unchanged
files need no further work. Changed content goes to a source. The source parses and
checks the content, and then gives it to the manager. Content that cannot be used is
refused with one warning, and the manager keeps its old content.

A thread does not survive `os.fork`. So a child process gets a new thread for each watch
that its parent had, and a fork waits until no watch is in the middle of a change.
"""

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
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

from fastnode.certs.certificate import Certificate
from fastnode.certs.file_changes import changes
from fastnode.certs.on_update import OnUpdate, WatchUpdate, check_on_update, tell
from fastnode.certs.pool import CertPool
from fastnode.certs.private_key import Password
from fastnode.errors import CertificateLoadError, ConfigError, FastnodeError
from fastnode.loggers import fields

__all__ = ["CertificateWatch", "reread_all"]

log = logging.getLogger("fastnode.certs")

_File: TypeAlias = str | os.PathLike[str]
#: The content of a file, or the error if it cannot be read.
Content: TypeAlias = bytes | OSError

#: Seconds that `close` waits for a thread that is busy, for example with a password
#: callable.
CLOSE_SECONDS: Final = 5.0
#: Seconds after which content that was not taken is tried again, although it has not
#: changed: a password may have become known, or a descriptor may be free again.
RETRY_SECONDS: Final = 30.0
#: Seconds that a fork waits for a thread that is busy in the same way.
FORK_SECONDS: Final = 0.5
#: How often reading starts again because a symbolic link moved meanwhile.
READ_ATTEMPTS: Final = 5
#: How many digests of bad content are remembered, so that each causes one warning.
REMEMBERED: Final = 64


class CertificateHolder(Protocol):
    """The receiver of a changed certificate: a `CertManager`."""

    @property
    def certificate(self) -> Certificate | None:
        """The certificate in use."""

    def check_update(self, new: Certificate) -> None:
        """Raise the error that `update` would raise, and change nothing."""

    def update(self, certificate: Certificate) -> None:
        """Use this certificate from the next handshake on."""

    def count_failed_rotation(self) -> None:
        """Count a certificate that was refused."""


class TrustHolder(Protocol):
    """The receiver of changed authorities: a `CertAuthManager`."""

    @property
    def client_cas(self) -> CertPool | None:
        """The authorities for client certificates."""

    @property
    def root_cas(self) -> CertPool | None:
        """The authorities for servers."""

    def replace_trust(self, client_cas: CertPool, root_cas: CertPool) -> None:
        """Use these pools from the next handshake on."""

    def count_failed_rotation(self) -> None:
        """Count authorities that were refused."""


class CertificateWatch:
    """Follows certificate files, and gives their content to a manager.

    Made by `CertManager.watch`, which loads the files once. From then on a daemon
    thread follows them until `close`, or until the process ends. The watch may be used
    as a context manager. It goes on when nothing refers to it any more. In a process
    that is forked from this one it goes on too, for the copy of the manager there.

    A pair that cannot be used (half-written, a key that does not fit, expired) is not
    taken. A warning says so once, and the old pair stays in use until the files are in
    order.
    """

    def __init__(
        self,
        manager: CertificateHolder,
        cert_file: _File,
        key_file: _File | None = None,
        *,
        password: Password = None,
        interval: float = 1.0,
        trust: tuple[TrustHolder, _File] | None = None,
        on_update: OnUpdate | None = None,
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
        check_on_update(on_update)
        self._interval = interval
        self._manager = manager
        self._on_update = on_update
        sources: list[Source] = [
            PairSource(
                manager,
                _absolute(cert_file),
                None if key_file is None else _absolute(key_file),
                password,
            )
        ]
        if trust is not None:
            # Trust changes first: the new pair of this node, and the certificates that
            # peers show, may be signed by the new authority.
            sources.insert(0, TrustSource(trust[0], _absolute(trust[1])))
        self._parts = tuple(FollowedFiles(source) for source in sources)
        self._files = tuple(
            dict.fromkeys(file for part in self._parts for file in part.files)
        )
        # Its owner may fork while it holds the lock: in a password callable.
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._load()
        _running.add(self)
        self._thread = self._start()
        log.info(
            "following %s",
            names_of(self._files),
            extra=fields("files_followed", file=names_of(self._files)),
        )

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

        Problems with the files are logged and never raised. May be called from any
        thread.
        """
        return self._check(own_thread=False)

    def _check(self, *, own_thread: bool) -> bool:
        with self._lock:
            contents = read_files(self._files)
            taken: list[FollowedFiles] = []
            for part in self._parts:
                if self._stop.is_set():
                    break
                if part.follow(contents):
                    taken.append(part)
            certificate = self._manager.certificate
        # The lock is not held here, because a fork waits for it, and the callback may
        # take long.
        if taken and self._on_update is not None:
            what = {part.what for part in taken}
            update = WatchUpdate(
                certificate if PairSource.what in what else None,
                TrustSource.what in what,
                tuple(dict.fromkeys(file for part in taken for file in part.files)),
            )
            tell(self._on_update, update, own_thread=own_thread)
        return bool(taken)

    def reread(self) -> bool:
        """Look at the files now, as `check` does, and try content again that was
        refused before. If it is refused again, a further warning says why."""
        with self._lock:
            for part in self._parts:
                part.forget_refused()
            return self.check()

    def close(self) -> None:
        """Stop following the files. The manager keeps what it has."""
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
        """Take all files as they are, or raise and take none."""
        contents = read_files(self._files)
        for part in self._parts:
            part.prepare(contents)
        for part in self._parts:
            part.install()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, name="fastnode-certificate-watch", daemon=True
        )
        thread.start()
        return thread

    def before_fork(self) -> bool:
        """Wait until no change is under way; return whether that is so.

        Then `after_fork` must follow, in this thread.
        """
        return self._lock.acquire(timeout=FORK_SECONDS)

    def after_fork(self) -> None:
        """Go on in the parent."""
        self._lock.release()

    def in_child(self) -> None:
        """Go on in a child, where the thread of the parent does not run."""
        closed = self.closed
        # The copies may be held by threads that are not here.
        self._lock, self._stop = threading.RLock(), threading.Event()
        if closed:
            self._stop.set()
            return
        try:
            self._thread = self._start()
        except RuntimeError as error:
            log.error(
                "%s: not followed in the forked process %d: %s",
                names_of(self._files),
                os.getpid(),
                error,
                extra=fields(
                    "files_not_followed", file=names_of(self._files), error=error
                ),
            )

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for _change in changes(self._files, self._interval, self._stop):
                    self._check(own_thread=True)
            except Exception as error:
                log.exception(
                    "certificate files could not be followed; going on",
                    extra=fields(
                        "files_not_followed", file=names_of(self._files), error=error
                    ),
                )
                self._stop.wait(self._interval)


class Source(Protocol):
    """What is made of files that are only good together.

    Attributes:
        files: the files.
        what: what they hold, for log lines.
    """

    files: tuple[Path, ...]
    what: str

    def parse(self, *data: bytes) -> None:
        """Parse and check the content of the files, in the order of `files`.

        Raises:
            FastnodeError: the content cannot be used.
        """

    def take(self) -> bool:
        """Give what was parsed to the manager; return whether it was new."""

    def count_failure(self) -> None:
        """Tell the manager that content was not taken."""


class FollowedFiles:
    """Files that are only good together: what was taken of them, and what was
    refused."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.files = source.files
        self.what = source.what
        self._taken = b""
        self._prepared = b""
        self._warned: deque[bytes] = deque(maxlen=REMEMBERED)
        self._retry_at = 0.0

    def prepare(self, contents: dict[Path, Content]) -> None:
        """Parse and check the content of the files.

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
        self._source.parse(*data)
        self._prepared = _digest(contents[file] for file in self.files)

    def install(self) -> bool:
        """Give what was prepared to the manager; return whether it was new."""
        new = self._source.take()
        self._taken = self._prepared
        self._warned.clear()
        return new

    def forget_refused(self) -> None:
        """Try content that was refused as if it were new."""
        self._warned.clear()

    def follow(self, contents: dict[Path, Content]) -> bool:
        """Take changed content, if it is good; return whether it was new."""
        digest = _digest(contents[file] for file in self.files)
        if digest == self._taken:
            if self._warned:
                log.info(
                    "%s: as before again",
                    names_of(self.files),
                    extra=fields("files_as_before", file=names_of(self.files)),
                )
                self._warned.clear()
            return False
        known = digest in self._warned
        if known and time.monotonic() < self._retry_at:
            return False
        prepared = False
        raised: Exception
        try:
            self.prepare(contents)
            prepared = True
            return self.install()
        except FastnodeError as error:
            said, raised, unexpected = str(error), error, False
        except Exception as error:
            # Its text may quote a key or a password.
            said, raised, unexpected = type(error).__name__, error, True
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not known:
            if not prepared:
                # Otherwise the manager itself has refused the content, and counted it.
                self._source.count_failure()
            self._warned.append(digest)
            log.log(
                logging.ERROR if unexpected else logging.WARNING,
                "%s: not taken, %s in use stays until the files are in order: %s",
                names_of(self.files),
                self.what,
                said,
                extra=fields(
                    "files_not_taken", file=names_of(self.files), error=raised
                ),
            )
        return False


class PairSource:
    """A certificate and its key, in two files or in one."""

    what = "the certificate"

    def __init__(
        self,
        manager: CertificateHolder,
        cert_file: Path,
        key_file: Path | None,
        password: Password,
    ) -> None:
        # One file, where the key is in the file of the certificate.
        self.files: tuple[Path, ...] = (cert_file,)
        if key_file not in {None, cert_file}:
            assert key_file is not None
            self.files = (cert_file, key_file)
        self._manager = manager
        self._password = password
        self._new: Certificate | None = None

    def parse(self, *data: bytes) -> None:
        """See `Source`. The pair fits, and `update` would take it."""
        new = Certificate.from_named(
            data[0], data[-1], self._password, str(self.files[0]), str(self.files[-1])
        )
        self._manager.check_update(new)
        self._new = new

    def take(self) -> bool:
        """See `Source`. The certificate in use is not new."""
        new, self._new = self._new, None
        assert new is not None
        if new == self._manager.certificate:
            return False
        self._manager.update(new)
        return True

    def count_failure(self) -> None:
        """See `Source`."""
        self._manager.count_failed_rotation()


class TrustSource:
    """The authorities that a manager trusts, in both directions."""

    what = "the trust"

    def __init__(self, manager: TrustHolder, ca_file: Path) -> None:
        self.files: tuple[Path, ...] = (ca_file,)
        self._manager = manager
        self._new: CertPool | None = None

    def parse(self, *data: bytes) -> None:
        """See `Source`. There is at least one authority, and none is cut off."""
        self._new = CertPool.from_named(data[0], str(self.files[0]))

    def take(self) -> bool:
        """See `Source`. The authorities in use are not new."""
        old = self._manager.client_cas, self._manager.root_cas
        parsed, self._new = self._new, None
        assert parsed is not None
        new = parsed.replacing(old[0]), parsed.replacing(old[1])
        changed = False
        for before, after in zip(old, new, strict=True):
            if before is None:
                changed = True
                continue
            changed |= before.is_system
            changed |= set(before.certificates) != set(after.certificates)
        if changed:
            self._manager.replace_trust(*new)
        return changed

    def count_failure(self) -> None:
        """See `Source`."""
        self._manager.count_failed_rotation()


def names_of(files: Iterable[Path]) -> str:
    """Return the names of files, for log lines."""
    return ", ".join(map(str, files))


def read_files(files: tuple[Path, ...]) -> dict[Path, Content]:
    """Read files that belong together.

    Kubernetes swaps all files at once by moving one symbolic link. If a link moved
    while the files were read, they are read again.
    """
    for _ in range(READ_ATTEMPTS):
        before = [os.path.realpath(file) for file in files]
        contents = {file: _content(file) for file in files}
        if before == [os.path.realpath(file) for file in files]:
            break
    return contents


def _content(file: Path) -> Content:
    try:
        return file.read_bytes()
    except OSError as error:
        return error


def _digest(contents: Iterable[Content]) -> bytes:
    """Return a digest of contents. Contents themselves are not kept: one is a private
    key."""
    digest = hashlib.sha256()
    for content in contents:
        held = content if isinstance(content, bytes) else repr(content.errno).encode()
        kind = b"content" if isinstance(content, bytes) else b"error"
        digest.update(b"%s %d\n" % (kind, len(held)))
        digest.update(held)
    return digest.digest()


def _absolute(file: _File) -> Path:
    # The working directory may have changed when the files are read again.
    return Path(file).absolute()


#: A daemon thread that returns from a library while the interpreter ends can crash the
#: interpreter. So threads that still run are ended before.
_running: weakref.WeakSet[CertificateWatch] = weakref.WeakSet()


def reread_all() -> tuple[int, int]:
    """Read the files of all watches of this process again; see
    `CertificateWatch.reread`.

    Blocks as long as that takes. Problems are logged and never raised.

    Returns:
        How many watches there are, and how many of them have taken something.
    """
    watches = [watch for watch in list(_running) if not watch.closed]
    return len(watches), sum(watch.reread() for watch in watches)


#: Of the thread that forks: the watches whose lock it holds.
_forking = threading.local()


@atexit.register
def _close_all() -> None:
    for watch in list(_running):
        watch.close()


def _before_fork() -> None:
    watches = sorted(_running, key=id)
    _forking.held = [watch for watch in watches if watch.before_fork()]


def _after_fork_in_parent() -> None:
    for watch in _forking.held:
        watch.after_fork()
    _forking.held = []


def _after_fork_in_child() -> None:
    _forking.held = []
    for watch in list(_running):
        watch.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
