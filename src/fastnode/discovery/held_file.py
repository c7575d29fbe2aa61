"""HeldFile: a file that counts only while the process that wrote it lives.

How it works. The writer holds a lock on the file (`flock`). The kernel releases the
lock when the process ends, however it ends. So a reader that gets a lock knows that the
writer is gone, and removes the file.

- The file gets its name when its content is complete and its lock is held. A file
  under that name without a lock is therefore always left over from a process that is
  gone. Names are never used twice, so no reader can remove a new file by an old name.
- A lock by `flock` belongs to the open file and not to the process. A forked child
  would share it, and would keep it when its parent dies. So a child closes its copies
  at once, and leaves the file alone. (Locks by `fcntl` belong to the process, but the
  process would lose them as soon as it read its own file.)
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
import weakref
from contextlib import suppress
from secrets import token_hex
from typing import Final

from fastnode.discovery.private_directory import PrivateDirectory

__all__ = ["HeldFile", "read_held", "remove_leftovers"]

SUFFIX: Final = ".node"
#: The name of a file that is not complete yet.
NEW_SUFFIX: Final = ".new"
#: After that many seconds a file that is still not complete is left over.
NEW_SECONDS: Final = 600.0

_held: weakref.WeakSet[HeldFile] = weakref.WeakSet()


class HeldFile:
    """A file that this process holds until `release`.

    Args:
        directory: where the file is.
        data: its content.

    Raises:
        OSError, FastnodeError: the file cannot be written.
    """

    def __init__(self, directory: PrivateDirectory, data: bytes) -> None:
        self._directory = directory
        self._data = data
        self._process = os.getpid()
        self._descriptor: int | None = None
        self._name = ""
        self._write()

    def _write(self) -> None:
        self._name = f"{token_hex(16)}{SUFFIX}"
        new = f"{self._name}{NEW_SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self._directory.opened() as place:
            self._descriptor = os.open(new, flags, 0o600, dir_fd=place)
            _held.add(self)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = memoryview(self._data)
                while left:
                    left = left[os.write(self._descriptor, left) :]
                os.rename(new, self._name, src_dir_fd=place, dst_dir_fd=place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(new, dir_fd=place)
                self._close()
                raise

    def keep(self) -> bool:
        """Write the file again if somebody has removed it or its directory.

        Returns:
            Whether it was missing.

        Raises:
            OSError, FastnodeError: the file cannot be written.
        """
        if self._process != os.getpid() or self._in_place():
            return False
        self._close()
        self._write()
        return True

    def _in_place(self) -> bool:
        if self._descriptor is None:
            return False
        ours = os.fstat(self._descriptor)
        try:
            with self._directory.opened() as place:
                found = os.stat(self._name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Remove the file. A forked child leaves it to its parent."""
        if self._process != os.getpid() or self._descriptor is None:
            return
        try:
            with suppress(FileNotFoundError), self._directory.opened() as place:
                os.unlink(self._name, dir_fd=place)
        finally:
            self._close()

    def _close(self) -> None:
        """Close the descriptor. The lock ends with the last one of all processes."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            os.close(descriptor)


def _after_fork_in_child() -> None:
    for held in list(_held):
        held._close()


os.register_at_fork(after_in_child=_after_fork_in_child)


def read_held(place: int, name: str, most: int) -> bytes | None:
    """Read a file that a process holds, and remove one that no process holds.

    Args:
        place: a descriptor of the directory.
        name: the name of the file in it.
        most: bytes that are read at most.

    Returns:
        The content; None if no process holds the file, or there is none.
    """
    # A file in the place of a fifo would let `open` wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=place)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        try:
            # Shared: readers must not take each other for the writer.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(descriptor, most)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place)
        return None
    finally:
        os.close(descriptor)


def remove_leftovers(place: int, name: str) -> None:
    """Remove a file that a process began long ago and did not complete."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=place, follow_symlinks=False)
        if time.time() - status.st_mtime > NEW_SECONDS:
            os.unlink(name, dir_fd=place)
