"""Files that a watch follows, and what is made of them."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from fastnode.certs.certificate import Certificate
from fastnode.certs.pool import CertPool
from fastnode.certs.private_key import Password
from fastnode.errors import CertificateLoadError, FastnodeError

if TYPE_CHECKING:
    from fastnode.certs.manager import CertAuthManager, CertManager

__all__ = ["FollowedFiles", "FollowedPair", "FollowedTrust", "read_files"]

log = logging.getLogger("fastnode.certs")

#: What a file holds, or why it cannot be read.
Content: TypeAlias = bytes | OSError

#: Seconds after which what was not taken is tried again though it has not changed: a
#: password may have become known, a descriptor free.
RETRY_SECONDS: Final = 30.0
#: How often a read is begun anew because a symbolic link moved under it.
READ_ATTEMPTS: Final = 5
#: How much bad content is remembered, so that each is warned of once.
REMEMBERED: Final = 64


class FollowedFiles:
    """Files that are only good together."""

    what = ""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files = files
        self._taken = b""
        self._prepared = b""
        self._warned: deque[bytes] = deque(maxlen=REMEMBERED)
        self._retry_at = 0.0

    def prepare(self, contents: dict[Path, Content]) -> None:
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

    def follow(self, contents: dict[Path, Content]) -> bool:
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


class FollowedPair(FollowedFiles):
    """A certificate and its key, in two files or in one."""

    what = "the certificate"

    def __init__(
        self,
        manager: CertManager,
        cert_file: Path,
        key_file: Path | None,
        password: Password,
    ) -> None:
        # One file where the key is in the certificate's.
        files = (cert_file,) if key_file in {None, cert_file} else (cert_file, key_file)
        super().__init__(files)
        self._manager = manager
        self._password = password
        self._new: Certificate | None = None

    def parse(self, *data: bytes) -> None:
        """See `FollowedFiles`: the pair fits and would be taken by `update`."""
        new = Certificate.from_named(
            data[0], data[-1], self._password, str(self.files[0]), str(self.files[-1])
        )
        self._manager.check_update(new)
        self._new = new

    def take(self) -> bool:
        """See `FollowedFiles`; the same certificate again is no news."""
        new, self._new = self._new, None
        assert new is not None
        if new == self._manager.certificate:
            return False
        self._manager.update(new)
        return True


class FollowedTrust(FollowedFiles):
    """The authorities that a manager trusts, in both directions."""

    what = "the trust"

    def __init__(self, manager: CertAuthManager, ca_file: Path) -> None:
        super().__init__((ca_file,))
        self._manager = manager
        self._new: Callable[[], CertPool] = CertPool

    def parse(self, *data: bytes) -> None:
        """See `FollowedFiles`: at least one authority, and none cut off."""

        def make() -> CertPool:
            return CertPool.from_named(data[0], str(self.files[0]))

        make()
        self._new = make

    def take(self) -> bool:
        """See `FollowedFiles`; the same authorities again are no news."""
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


def read_files(files: tuple[Path, ...]) -> dict[Path, Content]:
    """What the files hold at one moment, as far as symbolic links tell moments apart:
    Kubernetes swaps all files at once by moving one link."""
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
    """Tells contents apart without keeping them: one of them is a private key."""
    digest = hashlib.sha256()
    for content in contents:
        held = content if isinstance(content, bytes) else repr(content.errno).encode()
        kind = b"content" if isinstance(content, bytes) else b"error"
        digest.update(b"%s %d\n" % (kind, len(held)))
        digest.update(held)
    return digest.digest()
