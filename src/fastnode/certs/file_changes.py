"""Waiting until files may have changed.

Told by the system where the `watchfiles` library is installed (``fastnode[watch]``),
and by looking again every few moments in any case: a watch can be lost, with the
directory that it was for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

from fastnode.loggers import fields

__all__ = ["changes", "find_watcher", "places"]

log = logging.getLogger("fastnode.certs")

#: Milliseconds: how often the library looks whether there was anything; and how long it
#: gathers what comes in a row.
STEP_MS: Final = 50
DEBOUNCE_MS: Final = 200
#: What Linux follows before it says ELOOP.
MAX_LINKS: Final = 40

#: Directories, and which ones they are: another may have taken a path.
_Places: TypeAlias = dict[Path, tuple[int, int]]


def changes(
    files: Iterable[Path], interval: float, stop: threading.Event
) -> Iterator[None]:
    """Yield when one of the files may have changed, and every `interval` seconds.

    Ends when `stop` is set. Never raises: what cannot be watched is looked at.
    """
    files = tuple(files)
    watcher = find_watcher()
    warned = ""
    while not stop.is_set():
        watched = places(files)
        if watcher is not None and watched:
            try:
                yield from _told(watcher, files, watched, interval, stop)
                continue
            except Exception as error:
                if not stop.is_set() and places(files) != watched:
                    # A directory was swapped before it could be watched.
                    yield
                    continue
                # Too many watches for this user, a directory that is gone again, ...
                if str(error) != warned:
                    warned = str(error)
                    log.warning(
                        "the system does not tell of changes of certificate files "
                        "(%s): looking at them every %g s",
                        warned,
                        interval,
                        extra=fields("changes_not_told", error=error),
                    )
        if not stop.wait(interval):
            yield


def find_watcher() -> Any:
    """The library's `watch`, or None where it is not installed."""
    try:
        from watchfiles import watch  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return watch


def places(files: Iterable[Path]) -> _Places:
    """The directories in which something happens when one of the files changes.

    They are that of the file, and for each symbolic link on the way to it (Kubernetes
    swaps the one called ``..data``) that of the link and that of what it points to.
    """
    found: _Places = {}
    for file in files:
        for directory in _on_the_way(file):
            try:
                status = directory.stat()
            except OSError:
                continue  # not there now: the next look tells
            found[directory] = (status.st_dev, status.st_ino)
    return found


def _told(
    watcher: Any,
    files: tuple[Path, ...],
    watched: _Places,
    interval: float,
    stop: threading.Event,
) -> Iterator[None]:
    """Yield as `changes` does, until the directories to watch are others."""
    events = watcher(
        *watched,
        watch_filter=None,
        step=STEP_MS,
        debounce=DEBOUNCE_MS,
        # It looks for a reason to stop in each step anyway: a turn of the loop here
        # costs little more, and the first one says that the watch has begun.
        rust_timeout=STEP_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        recursive=False,
        stop_event=stop,
    )
    look_at = 0.0  # at once: something may have changed before the watch began
    with closing(events):
        for event in events:
            if event or time.monotonic() >= look_at:
                look_at = time.monotonic() + interval
                yield
                if places(files) != watched:
                    return


def _on_the_way(file: Path) -> set[Path]:
    path = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would lose the links
    found = {path.parent}
    for _ in range(MAX_LINKS):
        parts = [*reversed(path.parents), path]
        link = next((part for part in parts if part.is_symlink()), None)
        if link is None:
            break
        found.add(link.parent)
        target = link.parent / link.readlink() / path.relative_to(link)
        path = Path(os.path.normpath(target))
    found.add(path.parent)
    return found
