"""A test kit for discoveries: what `fastnode` expects of them, as checks.

Your test gives each check a `Subject`: your discovery, and a way to change what it
finds. ::

    from fastnode.discovery import kit

    class MySubject:
        def __init__(self, directory):
            self.discovery = MyDiscovery(directory)
            self.set_targets = directory.write      # async (service, targets)

    @pytest.mark.parametrize("check", kit.CHECKS)
    async def test_my_discovery(check, directory):
        await check(MySubject(directory))

If the discovery can announce, run `ANNOUNCE_CHECKS` too. If the test can cut the
discovery off, write a `BreakableSubject`, and run `OUTAGE_CHECKS`. A check raises
`AssertionError` with the reason if the discovery does not behave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final, Protocol, Self, TypeAlias

from fastnode.discovery.protocol import AnnouncingDiscovery, Discovery
from fastnode.discovery.target import Target, normal_targets
from fastnode.errors import ConfigError

__all__ = [
    "ANNOUNCE_CHECKS",
    "CHECKS",
    "OUTAGE_CHECKS",
    "AnnounceCheck",
    "AnnouncingSubject",
    "BreakableSubject",
    "Check",
    "FakeAcceptor",
    "FakeNode",
    "OutageCheck",
    "Subject",
]

#: How long a change may take until a watcher has it, seconds. Far more than any
#: discovery should need, so that busy machines fail no test.
CHANGE_SECONDS: Final = 30.0

ONE: Final = Target("127.0.0.1", 15001)
TWO: Final = Target("127.0.0.1", 15002)
THREE: Final = Target("127.0.0.1", 15003)


class Subject(Protocol):
    """A discovery under test, and the directory behind it."""

    @property
    def discovery(self) -> Discovery:
        """The discovery under test. Each check uses new names of services."""

    async def set_targets(self, service: str, targets: Sequence[Target]) -> None:
        """Let the directory have exactly these targets for a service."""


class BreakableSubject(Subject, Protocol):
    """A subject whose directory the test can cut off."""

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which the discovery cannot ask its directory."""


#: The checks of the three lists below.
Check: TypeAlias = Callable[[Subject], Awaitable[None]]
OutageCheck: TypeAlias = Callable[[BreakableSubject], Awaitable[None]]
AnnounceCheck: TypeAlias = Callable[[AnnouncingDiscovery], Awaitable[None]]


# --- nodes that are announced ---------------------------------------------------------


@dataclass(frozen=True)
class FakeAcceptor:
    """Stands for an acceptor of a node.

    Attributes:
        advertised: host and port.
    """

    advertised: tuple[str, int]


@dataclass(frozen=True)
class FakeNode:
    """Stands for a node in an announcement.

    Attributes:
        name: ``name@host``.
        acceptors: where the node listens.
        instance: identifies this run of the node.
    """

    name: str
    acceptors: tuple[FakeAcceptor, ...]
    instance: str = field(default_factory=lambda: token_hex(16))

    @classmethod
    def at(cls, service: str, *targets: Target) -> FakeNode:
        """Return a node that listens at these targets."""
        acceptors = tuple(FakeAcceptor((t.host, t.port)) for t in targets)
        return cls(f"{service}@127.0.0.1", acceptors)


class AnnouncingSubject:
    """A `Subject` for a discovery that has no other way to change its directory: a fake
    node is announced for each target. Use it as an asynchronous context manager.

    Args:
        discovery: the discovery under test.
        announcer: announces the nodes; None: the same discovery.
    """

    def __init__(
        self,
        discovery: AnnouncingDiscovery,
        announcer: AnnouncingDiscovery | None = None,
    ) -> None:
        self.discovery: AnnouncingDiscovery = discovery
        self._announcer = announcer or discovery
        self._announced: dict[
            tuple[str, Target], AbstractAsyncContextManager[None]
        ] = {}

    async def set_targets(self, service: str, targets: Sequence[Target]) -> None:
        """See `Subject`."""
        wanted = {(service, target) for target in targets}
        for key in [k for k in self._announced if k[0] == service and k not in wanted]:
            await self._announced.pop(key).__aexit__(None, None, None)
        for key in sorted(wanted - self._announced.keys()):
            context = self._announcer.announce(FakeNode.at(*key), [service])
            await context.__aenter__()
            self._announced[key] = context

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for service in {service for service, _ in self._announced}:
            await self.set_targets(service, [])


# --- watching -------------------------------------------------------------------------


class _Watcher:
    """Reads the sets of a service."""

    def __init__(self, iterator: AsyncIterator[Sequence[Target]]) -> None:
        self._iterator = iterator

    async def next(self) -> tuple[Target, ...]:
        """Return the next set."""
        async with asyncio.timeout(CHANGE_SECONDS):
            found = await anext(self._iterator)
        for target in found:
            assert isinstance(target, Target), f"{target!r} is not a Target"
        return normal_targets(found)

    async def until(self, *targets: Target) -> None:
        """Read sets until one has these addresses."""
        wanted = _addresses(targets)
        found: tuple[Target, ...] | None = None
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                while found is None or _addresses(found) != wanted:
                    found = await self.next()
        except TimeoutError:
            raise AssertionError(
                f"the set {wanted} did not come; the last one was {found}"
            ) from None


def _addresses(targets: Iterable[Target]) -> list[tuple[str, int]]:
    return sorted((target.host, target.port) for target in targets)


@asynccontextmanager
async def _watching(discovery: Discovery, service: str) -> AsyncIterator[_Watcher]:
    iterator = discovery.watch(service)
    try:
        yield _Watcher(iterator)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            async with asyncio.timeout(CHANGE_SECONDS):
                await close()


def _new_service() -> str:
    return f"kit-{token_hex(4)}"


# --- checks ---------------------------------------------------------------------------


async def first_set_comes(subject: Subject) -> None:
    """The targets that are known when a watch begins come at once, as one set."""
    service = _new_service()
    await subject.set_targets(service, [ONE, TWO])
    async with _watching(subject.discovery, service) as watcher:
        found = _addresses(await watcher.next())
        assert found == _addresses([ONE, TWO]), f"the first set is {found}"


async def unknown_service_is_empty(subject: Subject) -> None:
    """A service that nobody has heard of has an empty set, which is an answer."""
    async with _watching(subject.discovery, _new_service()) as watcher:
        assert await watcher.next() == ()


async def changes_come(subject: Subject) -> None:
    """Targets that come, go and are replaced at once are seen, in whole sets."""
    service = _new_service()
    async with _watching(subject.discovery, service) as watcher:
        for targets in ([ONE], [ONE, TWO, THREE], [TWO], [ONE, THREE], []):
            await subject.set_targets(service, targets)
            await watcher.until(*targets)


async def newest_set_counts(subject: Subject) -> None:
    """A consumer that reads late gets the newest set in the end, and then nothing."""
    service = _new_service()
    await subject.set_targets(service, [ONE])
    async with (
        _watching(subject.discovery, service) as slow,
        _watching(subject.discovery, service) as fast,
    ):
        await slow.until(ONE)
        for targets in ([ONE, TWO], [TWO], [TWO, THREE]):
            await subject.set_targets(service, targets)
            await fast.until(*targets)
        await slow.until(TWO, THREE)


async def services_are_apart(subject: Subject) -> None:
    """Watches of two services, and two watches of one service, do not disturb each
    other."""
    first, second = _new_service(), _new_service()
    async with (
        _watching(subject.discovery, first) as one,
        _watching(subject.discovery, second) as other,
        _watching(subject.discovery, first) as again,
    ):
        await subject.set_targets(first, [ONE])
        await subject.set_targets(second, [TWO])
        await one.until(ONE)
        await other.until(TWO)
        await again.until(ONE)
        await subject.set_targets(second, [])
        await other.until()
        await subject.set_targets(first, [THREE])
        await one.until(THREE)
        await again.until(THREE)


async def cancelled_reader_goes_on(subject: Subject) -> None:
    """A reader that is cancelled while it waits loses nothing and can read on."""
    service = _new_service()
    await subject.set_targets(service, [ONE])
    async with _watching(subject.discovery, service) as watcher:
        await watcher.until(ONE)
        waiting = asyncio.ensure_future(watcher.next())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled(), "nothing had changed, but a set came"
        await subject.set_targets(service, [TWO])
        await watcher.until(TWO)


async def closed_watch_ends(subject: Subject) -> None:
    """Closing a watch leaves no task behind, before and after its first set."""
    before = asyncio.all_tasks()
    service = _new_service()
    async with _watching(subject.discovery, service):
        pass
    async with _watching(subject.discovery, service) as watcher:
        await watcher.next()
    left = asyncio.all_tasks() - before
    assert not left, f"tasks are left: {left}"


async def bad_names_are_refused(subject: Subject) -> None:
    """What cannot be the name of a service raises `ConfigError`, and asks nobody."""
    for name in ("", "a b", "../up", "a/b", "a@b", "*", "a\n"):
        try:
            subject.discovery.watch(name)
        except ConfigError:
            continue
        raise AssertionError(f"the name {name!r} was taken")


#: For each discovery.
CHECKS: Final[tuple[Check, ...]] = (
    first_set_comes,
    unknown_service_is_empty,
    changes_come,
    newest_set_counts,
    services_are_apart,
    cancelled_reader_goes_on,
    closed_watch_ends,
    bad_names_are_refused,
)


async def last_set_survives_outage(subject: BreakableSubject) -> None:
    """While the directory cannot be asked no set comes. Afterwards changes come."""
    service = _new_service()
    await subject.set_targets(service, [ONE, TWO])
    async with _watching(subject.discovery, service) as watcher:
        await watcher.until(ONE, TWO)
        waiting = asyncio.ensure_future(watcher.next())
        try:
            async with subject.outage():
                # There is nothing to wait for, because nothing may happen.
                await asyncio.wait([waiting], timeout=0.5)
                assert not waiting.done(), f"an outage gave a set: {waiting}"
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
        await subject.set_targets(service, [THREE])
        await watcher.until(THREE)


async def outage_at_the_beginning(subject: BreakableSubject) -> None:
    """A watch that begins in an outage has no set, not an empty one, and then the
    targets."""
    service = _new_service()
    await subject.set_targets(service, [ONE])
    async with _watching(subject.discovery, service) as watcher:
        first = asyncio.ensure_future(watcher.next())
        try:
            async with subject.outage():
                await asyncio.wait([first], timeout=0.5)
                assert not first.done(), f"an outage gave a set: {first}"
            found = await first
        finally:
            first.cancel()
            await asyncio.wait([first])
        assert _addresses(found) == _addresses([ONE]), f"the first set is {found}"


#: For discoveries that the test can cut off from their directory.
OUTAGE_CHECKS: Final[tuple[OutageCheck, ...]] = (
    last_set_survives_outage,
    outage_at_the_beginning,
)


async def announced_node_is_found(discovery: AnnouncingDiscovery) -> None:
    """A node is found as long as it is announced, with all of its acceptors."""
    service = _new_service()
    async with _watching(discovery, service) as watcher:
        await watcher.until()
        for _ in range(2):  # the same node may come back
            node = FakeNode.at(service, ONE, TWO)
            async with discovery.announce(node, [service]):
                await watcher.until(ONE, TWO)
            await watcher.until()


async def several_nodes_are_announced(discovery: AnnouncingDiscovery) -> None:
    """Nodes of one name do not replace each other. A node may be of two services."""
    first, second = _new_service(), _new_service()
    one, two = FakeNode.at(first, ONE), FakeNode.at(first, TWO)
    async with (
        _watching(discovery, first) as watcher,
        _watching(discovery, second) as other,
        discovery.announce(one, [first, second]),
    ):
        async with discovery.announce(two, [first]):
            await watcher.until(ONE, TWO)
            await other.until(ONE)
        await watcher.until(ONE)


async def failed_body_leaves(discovery: AnnouncingDiscovery) -> None:
    """A context that is left by an exception is left, and the exception goes on."""
    service = _new_service()
    async with _watching(discovery, service) as watcher:
        try:
            async with discovery.announce(FakeNode.at(service, ONE), [service]):
                await watcher.until(ONE)
                raise KeyError(service)
        except KeyError:
            pass
        else:
            raise AssertionError("the exception was swallowed")
        await watcher.until()


async def bad_announcements_are_refused(discovery: AnnouncingDiscovery) -> None:
    """Names that cannot be services are refused before anything is announced."""
    for name in ("", "a b", "../up", "a/b", "a@b"):
        try:
            async with discovery.announce(FakeNode.at("x", ONE), [name]):
                pass
        except ConfigError:
            continue
        raise AssertionError(f"the name {name!r} was taken")


#: For discoveries that can announce; a check takes the discovery itself.
ANNOUNCE_CHECKS: Final[tuple[AnnounceCheck, ...]] = (
    announced_node_is_found,
    several_nodes_are_announced,
    failed_body_leaves,
    bad_announcements_are_refused,
)
