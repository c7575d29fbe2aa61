"""LocalDiscovery: the nodes of one user on one host, without a server."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from fastnode.discovery.entry import Entry, decode_entry, entry_of
from fastnode.discovery.failure import DiscoveryError
from fastnode.discovery.held_file import (
    NEW_SUFFIX,
    SUFFIX,
    HeldFile,
    read_held,
    remove_leftovers,
)
from fastnode.discovery.inotify import DirectoryChanges
from fastnode.discovery.private_directory import PrivateDirectory, default_directory
from fastnode.discovery.protocol import AnnouncedNode
from fastnode.discovery.target import Target
from fastnode.discovery.watch import Publish, Watch
from fastnode.errors import ConfigError, FastnodeError
from fastnode.limits import MAX_ENTRY_BYTES
from fastnode.log_limit import LogLimit
from fastnode.names import check_service

__all__ = ["LocalDiscovery"]

log = logging.getLogger("fastnode.discovery")

#: Seconds between two looks at the directory. Where the system reports changes they are
#: seen at once, and the looks only make up for what it does not report. A look takes
#: 10 us for each node.
LOOK_SECONDS: Final = 0.5
#: A report comes just before the kernel releases the lock of a process that died.
SETTLE_SECONDS: Final = 0.005
#: Files that are looked at; more nodes of one user do not run on one host.
MAX_FILES: Final = 4096


class LocalDiscovery:
    """Finds the nodes of the same user on the same host.

    Each node writes a file into a directory of the user, and holds a lock on it for as
    long as its process lives. The file of a process that crashed counts for nothing,
    and the next reader removes it. Forked children of a process do not keep its file.

    Changes are seen within milliseconds on Linux, and within 0.5 s elsewhere.

    Args:
        directory: a directory with mode 0700 that belongs to this user. It is made if
            its parent exists. It must be on a file system of this host. None takes
            ``$XDG_RUNTIME_DIR/fastnode``. If that variable does not name a directory of
            this user, it takes ``/run/user/UID/fastnode``, or else ``fastnode-UID`` in
            the directory for temporary files (`tempfile.gettempdir`).

    Raises:
        ConfigError: the directory cannot be made, belongs to another user, or can be
            entered by others.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        if directory is None:
            path = default_directory()
        elif isinstance(directory, (str, os.PathLike)) and _is_path(str(directory)):
            path = Path(directory)
        else:
            raise ConfigError(
                f"the directory of a LocalDiscovery is {directory!r}",
                hint="give a path, or None for the directory of this user",
            )
        self._directory = PrivateDirectory(path)
        self._limit = LogLimit(log)

    @property
    def directory(self) -> Path:
        """The directory of the files."""
        return self._directory.path

    def watch(self, service: str) -> Watch:
        """See `Discovery.watch`.

        Raises:
            ConfigError: `service` cannot be the name of a service.
        """
        name = check_service(service)

        async def follow(publish: Publish) -> None:
            news = asyncio.Event()
            known: dict[str, Entry | None] = {}
            directory: tuple[int, int] | None = None
            changes = DirectoryChanges(news.set)
            try:
                while True:
                    news.clear()
                    before = directory
                    found, directory = self._look(known, changes)
                    if before not in (None, directory) and known:
                        # Somebody has removed the directory. It says nothing before
                        # the nodes have written their files again.
                        await asyncio.sleep(2 * LOOK_SECONDS)
                        continue
                    known = found
                    publish(_targets_of(name, known))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await news.wait()
                        await asyncio.sleep(SETTLE_SECONDS)
            finally:
                changes.close()

        return Watch(name, follow, where=f"in {self.directory}")

    @asynccontextmanager
    async def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        """See `AnnouncingDiscovery.announce`.

        If something removes the file or the directory, the file is written again
        within 0.5 s.

        Raises:
            ConfigError: the node cannot be announced, or the directory cannot be used.
            DiscoveryError: the file cannot be written.
        """
        entry = entry_of(node, services)
        try:
            held = HeldFile(self._directory, entry.encode())
        except OSError as error:
            raise DiscoveryError(
                f"{entry.node} cannot be announced in {self.directory}: {error}",
                hint="see that there is room and that files can be locked",
            ) from error
        keeping = asyncio.create_task(self._keep(held, entry))
        try:
            yield
        finally:
            keeping.cancel()
            try:
                await asyncio.wait([keeping])
            finally:
                held.release()

    async def _keep(self, held: HeldFile, entry: Entry) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                missing = held.keep()
            except (OSError, FastnodeError) as error:
                text = "%s cannot be announced in %s: %s"
                self._limit.say(
                    logging.WARNING, "keep", text, entry.node, self.directory, error,
                    event="announcement_failed", node=entry.node, error=error,
                )  # fmt: skip
                continue
            if missing:
                text = "the file of %s in %s was missing, and is written again"
                self._limit.say(
                    logging.WARNING, "missing", text, entry.node, self.directory,
                    event="announcement_lost", node=entry.node,
                )  # fmt: skip

    def _look(
        self, known: dict[str, Entry | None], changes: DirectoryChanges
    ) -> tuple[dict[str, Entry | None], tuple[int, int]]:
        """Return the entries of all files that processes hold, by their names; and
        which directory it was: its device and inode.

        Args:
            known: the last answer. The content of a file never changes, so it is read
                once. None stands for a file that holds no entry.
        """
        found: dict[str, Entry | None] = {}
        with self._directory.opened() as place:
            # Before the directory is read, so that no change falls in between.
            changes.watch(self.directory)
            status = os.fstat(place)
            # By the descriptor: what was checked is read.
            names = os.listdir(place)  # noqa: PTH208
            for name in sorted(names)[:MAX_FILES]:
                if name.endswith(NEW_SUFFIX):
                    remove_leftovers(place, name)
                if not name.endswith(SUFFIX):
                    continue
                try:
                    data = read_held(place, name, MAX_ENTRY_BYTES + 1)
                    if data is not None:
                        found[name] = (
                            known[name] if name in known else decode_entry(data)
                        )
                except (OSError, ValueError) as error:
                    found[name] = None
                    text = "the file %s in %s is ignored: %s"
                    self._limit.say(
                        logging.WARNING, "file", text, name, self.directory, error,
                        event="entry_ignored", key=name, error=error,
                    )  # fmt: skip
        return found, (status.st_dev, status.st_ino)

    def __repr__(self) -> str:
        return f"<LocalDiscovery in {self.directory}>"


def _is_path(text: str) -> bool:
    return bool(text) and "\0" not in text


def _targets_of(service: str, entries: dict[str, Entry | None]) -> Iterator[Target]:
    for entry in entries.values():
        if entry is not None and service in entry.services:
            yield from entry.targets
