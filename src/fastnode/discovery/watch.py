"""Watch: the iterator that the discoveries of this package return.

How it works. A task follows the service in the background and publishes sets. The
iterator returns the newest set, if it differs from the one before. So a consumer may be
slow, may be cancelled while it waits, and may wait with a timeout: it misses no change,
and a stream of changes that nobody reads takes no memory.

If following fails, the task logs the reason and begins again after a pause that grows.
Meanwhile the last set stays valid. The task ends with `Watch.aclose`, or when nothing
refers to the `Watch` any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Self, TypeAlias

from fastnode.backoff import Backoff
from fastnode.discovery.target import Target, normal_targets
from fastnode.dispatch.user_code import HookFailed, name_of, settle, text_of
from fastnode.limits import (
    CANCEL_SECONDS,
    DISCOVERY_FIRST_PAUSE_SECONDS,
    DISCOVERY_MOST_PAUSE_SECONDS,
    MAX_TARGETS,
)
from fastnode.log_limit import LogLimit
from fastnode.names import check_service

__all__ = ["Follow", "Publish", "Watch"]

log = logging.getLogger("fastnode.discovery")


#: Following that worked for so long resets the pause.
STABLE_SECONDS: Final = 10.0

#: Takes a whole set of targets.
Publish: TypeAlias = Callable[[Iterable[Target]], None]
#: Follows a service for as long as it works, and publishes each set. It ends only by an
#: exception, or by cancellation.
Follow: TypeAlias = Callable[[Publish], Awaitable[None]]


class _Newest:
    """The newest set of a service. It has the state that task and iterator share."""

    def __init__(self, service: str, what: str) -> None:
        self.service = service
        self.what = what
        self.targets: tuple[Target, ...] = ()
        #: Counts the sets that differ from the one before; 0: there is none yet.
        self.version = 0
        #: Why the directory cannot be asked at present.
        self.error: BaseException | None = None
        self.news = asyncio.Event()
        self.limit = LogLimit(log)

    def publish(self, targets: Iterable[Target]) -> None:
        normal = normal_targets(targets)
        self.error = None
        if len(normal) > MAX_TARGETS:
            self.limit.say(
                logging.WARNING,
                "targets",
                "%s has %d targets; only the first %d are used",
                self.what,
                len(normal),
                MAX_TARGETS,
                event="targets_cut",
                service=self.service,
            )
            normal = normal[:MAX_TARGETS]
        if self.version and normal == self.targets:
            return
        self.targets = normal
        self.version += 1
        self.news.set()


class Watch:
    """An iterator over the sets of targets of a service; the newest set counts.

    It begins to follow when the first set is asked for, and belongs to the loop that
    runs then.

    Args:
        service: the name of the service, for the log.
        follow: follows the service.
        where: the directory, for the log: "in etcd under /prod".
        first: seconds, the ceiling of the first pause after a failure.
        most: seconds, the highest ceiling.

    Raises:
        ConfigError: `service` cannot be the name of a service.
    """

    # For `__del__`, if the constructor raises.
    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        service: str,
        follow: Follow,
        *,
        where: str = "",
        first: float = DISCOVERY_FIRST_PAUSE_SECONDS,
        most: float = DISCOVERY_MOST_PAUSE_SECONDS,
    ) -> None:
        self._service = check_service(service)
        self._what = f"service {service} {where}".strip()
        self._follow = follow
        self._backoff = Backoff(first=first, most=most, stable=STABLE_SECONDS)
        self._newest: _Newest | None = None
        self._seen = 0
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Target]:
        """Wait for a set that is newer than the last one, and return it.

        Raises:
            StopAsyncIteration: `aclose` was called.
        """
        newest = self._begin()
        while not self._closed:
            if newest.version != self._seen:
                self._seen = newest.version
                return newest.targets
            newest.news.clear()
            await newest.news.wait()
        raise StopAsyncIteration

    @property
    def error(self) -> BaseException | None:
        """Why the directory cannot be asked at present, and the last set may be old.
        None if nothing has failed since the last set was published."""
        return None if self._newest is None else self._newest.error

    async def aclose(self) -> None:
        """Stop following. A consumer that waits gets no further set."""
        self._closed = True
        if self._newest is not None:
            self._newest.news.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # What ignores its cancellation must not hold up the consumer.
            await asyncio.wait([task], timeout=CANCEL_SECONDS)

    def _begin(self) -> _Newest:
        if self._newest is None:
            self._newest = _Newest(self._service, self._what)
            if not self._closed:
                # The task must not refer to this object: see `__del__`.
                following = _keep_following(self._newest, self._follow, self._backoff)
                self._task = asyncio.get_running_loop().create_task(following)
        return self._newest

    def __del__(self) -> None:
        task = self._task
        if task is not None and not task.done():
            # The loop may be closed already, and this may be another thread.
            with suppress(RuntimeError):
                task.get_loop().call_soon_threadsafe(task.cancel)


async def _keep_following(newest: _Newest, follow: Follow, backoff: Backoff) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        error: BaseException = EOFError("it has ended by itself")
        try:
            await settle(follow(newest.publish))
        except HookFailed as failed:
            error = failed.error
        newest.error = error.with_traceback(None)
        backoff.was_up(clock() - began)
        pause = backoff.pause()
        newest.limit.say(
            logging.WARNING,
            name_of(error),
            "%s cannot be followed, and %s; trying again in %.1f s: %s: %s",
            newest.what,
            "its last targets stay valid" if newest.version else "has no targets yet",
            pause,
            name_of(error),
            text_of(error),
            event="discovery_failed",
            service=newest.service,
            error=error,
        )
        await asyncio.sleep(pause)
