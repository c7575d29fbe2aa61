"""The client side of a turn, whatever it is made of."""

from __future__ import annotations

import asyncio
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from contenders.contender import Contender
from contents import pattern

#: Links that are opened at the same time: within what an acceptor of fastnode allows
#: one address by default.
OPENED_AT_ONCE = 16
#: Of a half-load run, besides the median.
SHARES = {"p50 us": 0.5, "p90 us": 0.9, "p99 us": 0.99, "p99.9 us": 0.999, "max us": 1}


class Clients(ABC):
    """Links to the server and the work on them, over all links or on the first one."""

    @abstractmethod
    async def open(self, port: int, links: int, first: int = 0) -> None:
        """Open links that are usable, as clients `first` and following."""

    @abstractmethod
    async def send(self, size: int, count: int) -> None:
        """Send one-way messages over all links; all have been handled on return."""

    @abstractmethod
    async def call(
        self, size: int, count: int, outstanding: int, *, metadata: bool = False
    ) -> float:
        """Make calls, so many at a time; the median of their times, microseconds."""

    @abstractmethod
    async def highest_rate(self, size: int, count: int) -> float:
        """Calls a second with many outstanding, made as `load` makes them."""

    @abstractmethod
    async def load(self, size: int, count: int, rate: float) -> dict[str, float]:
        """Begin calls at a fixed rate, come what may; percentiles, microseconds.

        The time of a call runs from when it was due, not from when it began.
        """

    @abstractmethod
    async def handshakes(self, port: int, at_once: int, count: int) -> None:
        """Open, call once, close: so many times."""

    @abstractmethod
    async def cpu_seconds(self) -> float:
        """CPU time of the client process so far, user and system."""

    @abstractmethod
    async def close(self) -> None:
        """End all links."""


def percentiles(times: Iterable[float]) -> dict[str, float]:
    """Exact ones, of seconds, in microseconds."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        name: ordered[min(last, int(len(ordered) * share))] * 1e6
        for name, share in SHARES.items()
    }


class AsyncClients(Clients):
    """Contenders in this process, on the loop that runs."""

    #: Calls at a time in `highest_rate`.
    OUTSTANDING = 64

    def __init__(self, kind: type[Contender], folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._members: list[Contender] = []

    async def open(self, port: int, links: int, first: int = 0) -> None:
        gate = asyncio.Semaphore(OPENED_AT_ONCE)

        async def connect(member: Contender, number: int) -> None:
            async with gate:
                await member.connect(port, number)
                await checked(member, pattern(8))

        members = [self._kind(self._folder) for _ in range(links)]
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(members, first):
                group.create_task(connect(member, number))
        self._members += members

    async def send(self, size: int, count: int) -> None:
        share, more = divmod(count, len(self._members))
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(self._members):
                mine = share + (number < more)
                if mine:
                    group.create_task(member.one_way(pattern(size), mine))

    async def call(
        self, size: int, count: int, outstanding: int, *, metadata: bool = False
    ) -> float:
        times = await self._members[0].calls(
            pattern(size), count, outstanding, metadata=metadata
        )
        return statistics.median(times) * 1e6

    async def highest_rate(self, size: int, count: int) -> float:
        member, payload = self._members[0], pattern(size)

        async def caller(mine: int) -> None:
            for _ in range(mine):
                await asyncio.create_task(checked(member, payload))

        share, more = divmod(count, self.OUTSTANDING)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self.OUTSTANDING):
                group.create_task(caller(share + (number < more)))
        return count / (time.perf_counter() - began)

    async def load(self, size: int, count: int, rate: float) -> dict[str, float]:
        member, payload = self._members[0], pattern(size)
        times: list[float] = []

        async def call(due: float) -> None:
            await checked(member, payload)
            times.append(time.perf_counter() - due)

        began, sent = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while sent < count:
                due = began + sent / rate
                if due <= time.perf_counter():
                    group.create_task(call(due))
                    sent += 1
                else:
                    # No sleep: a loop's timers are exact to a millisecond only.
                    await asyncio.sleep(0)
        return percentiles(times)

    async def handshakes(self, port: int, at_once: int, count: int) -> None:
        while len(self._members) < at_once:
            self._members.append(self._kind(self._folder))

        async def work(number: int, member: Contender, share: int) -> None:
            for _ in range(share):
                await member.connect(port, number)
                await checked(member, pattern(8))
                await member.disconnect()

        share, more = divmod(count, at_once)
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(self._members[:at_once]):
                group.create_task(work(number, member, share + (number < more)))

    async def cpu_seconds(self) -> float:
        return time.process_time()

    async def close(self) -> None:
        for member in self._members:
            await member.close()


async def checked(member: Contender, payload: bytes) -> None:
    """Make a call, and look at its answer."""
    if await member.call(payload) != payload:
        raise SystemExit("a call was answered with something else")
