"""PrivateDirectory: a directory that only its user can read and write.

Files in it are trusted as far as the user is. So a directory that belongs to another
user, or that others can enter, is refused, each time when it is opened: a directory in
a place where others can write may have been exchanged.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastnode.errors import ConfigError, is_exhaustion, out_of_resources

__all__ = ["PrivateDirectory", "default_directory"]


def default_directory() -> Path:
    """Return the directory of this user for the nodes of this host.

    It is ``$XDG_RUNTIME_DIR/fastnode``. If that variable does not name a directory of
    of this user, it is ``/run/user/UID/fastnode``, and where that does not exist
    ``fastnode-UID`` in the directory for temporary files.
    """
    user = os.geteuid()
    for runtime in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        # The specification wants an absolute path. `sudo` may keep that of the caller.
        if Path(runtime).is_absolute() and _belongs_to(user, runtime):
            return Path(runtime) / "fastnode"
    return Path(tempfile.gettempdir()) / f"fastnode-{user}"


def _belongs_to(user: int, directory: str) -> bool:
    try:
        status = Path(directory).stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user


class PrivateDirectory:
    """A directory with mode 0700 that belongs to the user of this process.

    Args:
        path: where it is. It is made if its parent exists.

    Raises:
        ConfigError: it cannot be made, or somebody else could use it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with self.opened():
            pass

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the directory, make it where it is missing, and check it.

        Returns:
            A context manager for its descriptor.

        Raises:
            ConfigError: it cannot be made, or somebody else could use it.
            OutOfResources: this process has no descriptors left.
        """
        try:
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            # Not a symbolic link: its owner could exchange the directory behind it.
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags)
        except OSError as error:
            if is_exhaustion(error):
                what = f"the directory {self.path} cannot be opened"
                raise out_of_resources(what, error) from error
            raise ConfigError(
                f"the directory {self.path} cannot be used: {error.strerror}",
                hint="name a directory that this user can make, or set "
                "XDG_RUNTIME_DIR to a directory of this user",
            ) from error
        try:
            self._check(os.fstat(descriptor))
            yield descriptor
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result) -> None:
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"the directory {self.path} belongs to the user {status.st_uid}, who "
                "could name any address in it",
                hint=f"name a directory of the user {os.geteuid()}",
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"the directory {self.path} has the mode {mode:04o}, so that other "
                "users can enter it",
                hint=f"chmod 700 {self.path}",
            )
