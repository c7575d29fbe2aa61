"""Starting, stopping and closing: bad timeouts, twice, and from inside a handler."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    ConfigError,
    Link,
    LinkClosed,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    WorkerGroup,
)
from fastnode.names import check_timeout
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running, start, until
from helpers.pki import manager

BAD_TIMEOUTS: list[Any] = ["5", -1, math.nan, True, b"", [], object, 10**400]
#: A busy machine needs longer than this machine when it is idle. It is less than a
#: shutdown that waits for itself.
SOON_SECONDS = 10.0


@pytest.mark.parametrize("timeout", BAD_TIMEOUTS)
def test_what_is_no_timeout(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        check_timeout(timeout)


def test_what_is_a_timeout() -> None:
    for timeout in (0, 0.5, 7, math.inf):
        assert check_timeout(timeout) == timeout


async def test_a_bad_timeout_changes_nothing() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda message: message.payload)
        link = await a.connect(B)
        for timeout in BAD_TIMEOUTS:
            uses: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: a.stop(timeout),  # noqa: B023
                lambda: a.reconnect(B, timeout=timeout),  # noqa: B023
                lambda: a.call(B, "e", b"", timeout=timeout),  # noqa: B023
                lambda: a.send(B, "e", b"", timeout=timeout),  # noqa: B023
                lambda: link.close(timeout),  # noqa: B023
                lambda: link.call("e", b"", timeout=timeout),  # noqa: B023
                lambda: link.send_confirmed("e", b"", timeout=timeout),  # noqa: B023
            ]
            for use in uses:
                with pytest.raises(ConfigError, match="timeout"):
                    await use()
        # A call to a node that there is no link with begins no dial.
        with pytest.raises(ConfigError, match="timeout"):
            await b.call("gamma@127.0.0.1", "e", b"", timeout=BAD_TIMEOUTS[0])
        assert not b._dialer._tasks
        assert (
            await link.call("e", b"still here", timeout=WAIT_SECONDS) == b"still here"
        )
        assert await a.connect(B) is link


async def test_an_infinite_timeout() -> None:
    async with pair() as (a, b):
        b.handler("e")(lambda message: message.payload)
        assert await a.call(B, "e", b"x", timeout=math.inf) == b"x"
        async with asyncio.timeout(SOON_SECONDS):
            await a.stop(math.inf)


async def test_a_group_checks_its_timeout() -> None:
    group = WorkerGroup(A, "helpers.group:options", workers=1)
    with pytest.raises(ConfigError, match="timeout"):
        await group.stop("5")  # type: ignore[arg-type]


# --- starting ------------------------------------------------------------------------


async def test_start_after_a_failed_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        acceptors = [
            AcceptorOptions(port=0),
            AcceptorOptions(port=port, port_range=1),
        ]
        options = NodeOptions(
            cert_manager=manager(A), network=NetworkOptions(acceptors=acceptors)
        )
        node = Node(A, options)
        for _ in range(2):
            with pytest.raises(ConfigError, match="in use"):
                await node.start()
        assert await node.stop() == ()
    async with await node.start(), running(B) as b:
        assert len(node.acceptors) == 2
        assert len(node._links.pending) == 2
        introduce(b, node)
        assert (await b.connect(A)).peer.verified
        with pytest.raises(ConfigError, match="was started before"):
            await node.start()


# --- twice ---------------------------------------------------------------------------


async def never(message: Message) -> None:
    await asyncio.Event().wait()


async def test_a_second_stop_shortens_the_first() -> None:
    a = await start(A)
    async with running(B) as b:
        introduce(b, a)
        a.handler("e")(never)
        (await b.connect(A)).send("e", b"")
        await until(lambda: a.links and a._links.in_use()[0].running)
        began = time.monotonic()
        first = asyncio.ensure_future(a.stop(60))
        await asyncio.sleep(0)
        longer = asyncio.ensure_future(a.stop(90))
        default = asyncio.ensure_future(a.stop())
        done, _ = await asyncio.wait([first, longer, default], timeout=0.1)
        assert not done
        left = await a.stop(0.2)
        assert time.monotonic() - began < SOON_SECONDS
        assert await first == await longer == await default == left
        assert [each.handlers for each in left] == [1]


async def test_a_second_close_shortens_the_first() -> None:
    async with pair() as (a, b):
        a.handler("e")(never)
        await a.connect(B)
        await until(lambda: b.links)
        b.links[0].send("e", b"")
        link = a.links[0]
        await until(lambda: a._links.in_use()[0].running)
        began = time.monotonic()
        first = asyncio.ensure_future(link.close(60))
        await asyncio.wait([first], timeout=0.05)
        assert not first.done()
        await link.close(0.1)
        await first
        assert time.monotonic() - began < SOON_SECONDS


# --- inside a handler ----------------------------------------------------------------


async def by_stop(node: Node, link: Link) -> None:
    await node.stop()


async def by_close(node: Node, link: Link) -> None:
    await link.close(60)


async def by_a_task(node: Node, link: Link) -> None:
    await asyncio.wait_for(node.stop(60), 30)


@pytest.mark.parametrize("end", [by_stop, by_close, by_a_task])
@pytest.mark.parametrize("dials", [False, True])
async def test_a_handler_that_ends_its_own_link(
    end: Callable[[Node, Link], Coroutine[Any, Any, None]], dials: bool
) -> None:
    """Its caller has the reply, and nobody waits for anybody."""
    async with (
        pair({"shutdown_timeout": 60.0}, {"shutdown_timeout": 60.0}) as (a, b),
        asyncio.timeout(SOON_SECONDS),
    ):
        served, caller = (a, b) if dials else (b, a)

        @served.handler("end")
        async def handle(message: Message) -> bytes:
            await end(served, served.links[0])
            # It takes some turns of the loop to reply.
            await asyncio.sleep(0.01)
            return b"ended"

        await a.connect(B)
        await until(lambda: b.links)
        link = caller.links[0]
        assert await link.call("end", b"", timeout=WAIT_SECONDS) == b"ended"
        await link.wait_closed()
        assert type(link.error) is LinkClosed
        # Whoever is not in a handler waits for the end.
        assert await served.stop() == ()
        assert not served.links


async def test_two_handlers_that_stop_their_node() -> None:
    async with pair({}, {"shutdown_timeout": 60.0}) as (a, b):

        @b.handler("end")
        async def handle(message: Message) -> bytes:
            await b.stop()
            return message.payload

        link = await a.connect(B)
        async with asyncio.timeout(SOON_SECONDS):
            calls = (link.call("end", b"%d" % n) for n in range(3))
            assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
            await b.stop()


async def test_a_task_that_a_handler_leaves_waits_for_the_end() -> None:
    async with pair({}, {"shutdown_timeout": 60.0}) as (a, b):
        stopped = asyncio.Event()

        async def shut_down() -> None:
            await b.stop()
            assert not b.links
            assert not tuple(b._links)
            stopped.set()

        tasks = []

        @b.handler("end")
        async def handle(message: Message) -> bytes:
            tasks.append(asyncio.ensure_future(shut_down()))
            return b"soon"

        link = await a.connect(B)
        async with asyncio.timeout(SOON_SECONDS):
            assert await link.call("end", b"") == b"soon"
            await stopped.wait()
            await tasks[0]


async def test_a_handler_that_renews_its_own_link() -> None:
    async with pair() as (a, b):

        @b.handler("renew")
        async def handle(message: Message) -> bytes:
            await b.reconnect(A, timeout=60)
            return b"renewed"

        link = await a.connect(B)
        async with asyncio.timeout(SOON_SECONDS):
            assert await link.call("renew", b"") == b"renewed"
            await until(lambda: a.links and a.links[0] is not link)
            await link.wait_closed()


async def test_a_handler_closes_the_link_with_another_peer() -> None:
    """It waits for the end, as everybody does."""
    async with pair() as (a, b), running("gamma@127.0.0.1") as c:
        introduce(b, c)

        @b.handler("e")
        async def handle(message: Message) -> bytes:
            link = await b.connect(c.name)
            await link.close()
            return b"%d" % (link in b.links or not link.closed)

        assert await a.call(B, "e", b"", timeout=WAIT_SECONDS) == b"0"
