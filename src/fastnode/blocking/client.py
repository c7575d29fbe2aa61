"""A client for programs without asyncio: `Client`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from fastnode.blocking.loop_thread import (
    LoopKind,
    LoopThread,
    Work,
    closed,
    lifecycle,
    refuse_late_start,
)
from fastnode.errors import ConfigError, Side
from fastnode.limits import CLIENT_EXIT_SECONDS, GROUP_BYTES
from fastnode.names import check_timeout
from fastnode.node.deadline import connect_with_deadline
from fastnode.node.node import Node
from fastnode.options import NetworkOptions, NodeOptions

if TYPE_CHECKING:
    from fastnode.dispatch.reply import Reply
    from fastnode.link.stats import LinkStats, Undelivered
    from fastnode.options import Priority
    from fastnode.peer import Peer

__all__ = ["Client"]

Result = TypeVar("Result")
Payload = bytes | bytearray | memoryview


class Client:
    """A node for programs without asyncio.

    It calls endpoints of other nodes, and sends messages to them. All methods may be
    used from any thread.

    The client starts when it is first used or entered with ``with``. It then has one
    thread with an event loop and a node. After `os.fork` the client starts another
    thread in the child, with links of its own. ::

        client = Client("web@10.0.0.5", NodeOptions(cert_manager=manager))
        reply = client.call("billing@10.0.0.7", "invoice", b"...", timeout=5.0)

    A client does not listen. It has no endpoints. Several clients, in one process or in
    many, may have the same name at the same time.

    Args:
        name: the name of the client's node, ``name@host``.
        options: as for `start_node`. `acceptors` has to be empty, or not given.
        loop: "uvloop" or "asyncio". None takes uvloop where it is installed.

    Raises:
        ConfigError: the name or the options cannot work.
    """

    def __init__(
        self,
        name: str,
        options: NodeOptions | None = None,
        *,
        loop: LoopKind | None = None,
    ) -> None:
        self._closed = True  # for __del__, if this raises
        self._thread: LoopThread | None = None
        if loop not in {None, "uvloop", "asyncio"}:
            raise ConfigError(
                f"there is no loop {loop!r}",
                side=Side.LOCAL,
                hint='it is "uvloop" or "asyncio"',
            )
        self._loop_kind = loop
        # Checks both, so that a mistake is raised here and not at the first call.
        self._name = Node(name, options).name
        self._options = _client_options(self._name, options or NodeOptions())
        self._closed = False

    # --- what it is ------------------------------------------------------------

    @property
    def node_name(self) -> str:
        """The name of the client's node, ``name@host``."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __repr__(self) -> str:
        thread = self._thread
        if self._closed:
            state = "closed"
        elif thread is None or not thread.usable:
            state = "not started"
        else:
            state = "running"
        return f"<Client {self._name}, {state}>"

    # --- using it --------------------------------------------------------------

    def call(
        self,
        target: str,
        endpoint: str,
        payload: Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call an endpoint of another node and return its reply.

        If this thread is interrupted, for example by KeyboardInterrupt, the call is
        cancelled. The peer is told.

        Args:
            target: the name of the other node, ``name@host``.
            timeout: seconds for all of it: starting, connecting and the reply. None
                waits as long as the link lasts.
            priority: "high" overtakes other messages; None: "normal".
            metadata: names and values for the handler, see `Link.send`.

        Raises:
            LinkClosed: the client was closed, or the link ended meanwhile.
            CallTimeout: no reply in time, or the loop of the client is blocked.
            ConfigError: the call comes from the loop of the client itself, for example
                from a hook; or as `Node.call`.
            As `Node.call`.
        """
        data, extra = _unchanging(payload), _copied(metadata)
        return self._do(
            lambda node, left: node.call(
                target,
                endpoint,
                data,
                timeout=left,
                priority=priority,
                metadata=extra,
            ),
            timeout,
        )

    def request(
        self,
        target: str,
        endpoint: str,
        payload: Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Reply:
        """Call an endpoint of another node, and return its reply with all that belongs
        to it: payload, metadata, peer, attempts.

        Args:
            As for `call`.

        Raises:
            As `call`.
        """
        data, extra = _unchanging(payload), _copied(metadata)
        return self._do(
            lambda node, left: node.request(
                target,
                endpoint,
                data,
                timeout=left,
                priority=priority,
                metadata=extra,
            ),
            timeout,
        )

    def send(
        self,
        target: str,
        endpoint: str,
        payload: Payload,
        *,
        confirm: bool = False,
        priority: Priority | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Send a one-way message. Return when it is queued, and the link is not over
        its high-water mark.

        Args:
            target: the name of the other node, ``name@host``.
            confirm: wait until the other node has handed it to its handler.
            priority: as for `call`.
            timeout: seconds for all of it, or None. When it is over, a message without
                `confirm` may be queued.
            metadata: as for `call`.

        Raises:
            LinkClosed: the client was closed, or the link ended meanwhile.
            CallTimeout: not done in time, or the loop of the client is blocked.
            ConfigError: as for `call`.
            As `Node.send`.
        """
        data, extra = _unchanging(payload), _copied(metadata)
        self._do(
            lambda node, left: node.send(
                target,
                endpoint,
                data,
                confirm=confirm,
                priority=priority,
                timeout=left,
                metadata=extra,
            ),
            timeout,
        )

    def connect(self, target: str, *, timeout: float | None = None) -> Peer:
        """Connect with another node, unless there is a link, and return the peer.

        `call` and `send` connect by themselves. This is for a program that wants to
        know early whether it can.

        Args:
            target: the name of the other node, ``name@host``.
            timeout: seconds for all of it. None: each address that is tried may take
                ``handshake_timeout``.

        Raises:
            LinkClosed: the client was closed.
            CallTimeout: no link in time, or the loop of the client is blocked.
            ConfigError: as for `call`.
            As `Node.connect`.
        """

        async def connected(node: Node, left: float | None) -> Peer:
            link, _ = await connect_with_deadline(left, node.connect, target)
            return link.peer

        return self._do(connected, timeout)

    def reconnect(
        self, target: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Replace the link with a node, or all links, so that a new certificate takes
        effect on them. Nothing is lost or doubled.

        Args:
            target: the name of the other node. None: all links.
            timeout: seconds. None: ``NodeOptions.shutdown_timeout``.

        Raises:
            LinkClosed: the client was closed, or a link was closed meanwhile.
            ConfigError: as for `call`.
            As `Node.reconnect`.
        """
        self._do(lambda node, left: node.reconnect(target, timeout=left), timeout)

    def stats(self) -> tuple[tuple[Peer, LinkStats], ...]:
        """Return the peer and the counters of each link that is up. Start nothing.

        Raises:
            LinkClosed: the client was closed.
            ConfigError: as for `call`.
        """

        async def counted(
            node: Node, _left: float | None
        ) -> tuple[tuple[Peer, LinkStats], ...]:
            return tuple((link.peer, link.stats) for link in node.links)

        thread = self._thread
        if not self._closed and (thread is None or not thread.usable):
            return ()
        return self._do(counted, None)

    # --- starting and closing ----------------------------------------------------

    def __enter__(self) -> Self:
        """Start the node.

        Raises:
            LinkClosed: the client was closed.
            CertificateError: the certificate of the client has expired.
        """

        async def nothing(_node: Node, _left: float | None) -> None:
            """Wait for nothing but the start."""

        self._do(nothing, None)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float | None = None) -> tuple[Undelivered, ...]:
        """Close the client. What was sent leaves, and its links end in order.

        Calls and sends that other threads are waiting for raise `LinkClosed` at once.
        To close a closed client waits for the same end. A client that is not closed
        ends with the interpreter, or when nothing refers to it any more.

        Args:
            timeout: seconds for what was sent. What has not left by then is cut off.
                None: ``NodeOptions.shutdown_timeout``.

        Returns:
            What was not done, of each link where something was left; it is logged too.

        Raises:
            CallTimeout: the loop of the client is blocked by a hook. The client ends
                when the hook returns.
            ConfigError: the call comes from the loop of the client itself, or `timeout`
                is below 0.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        thread = self._thread
        if thread is not None:
            thread.refuse_itself()
        with lifecycle:
            self._closed = True
            thread = self._thread
        return () if thread is None else thread.close(timeout)

    def __del__(self) -> None:
        # Must not wait: the garbage collector may run in any thread.
        if not self._closed and self._thread is not None:
            self._thread.begin_close(CLIENT_EXIT_SECONDS)

    def _do(self, work: Work[Result], timeout: float | None) -> Result:
        """Run something on the loop of the client and wait for its result."""
        if timeout is not None:
            timeout = check_timeout(timeout)
        thread = self._thread
        if thread is None or not thread.usable or self._closed:
            thread = self._started()
        thread.refuse_itself()
        return thread.do(work, timeout)

    def _started(self) -> LoopThread:
        """Return the loop thread, a new one where there is none.

        Raises:
            LinkClosed: the client was closed, or the interpreter ends.
        """
        with lifecycle:
            refuse_late_start(self._name)
            if self._closed:
                raise closed(self._name)
            if self._thread is None or not self._thread.usable:
                self._thread = LoopThread(self._name, self._options, self._loop_kind)
            return self._thread


def _copied(metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return a copy, which another thread cannot change. What is no mapping is refused
    by the link."""
    return dict(metadata) if isinstance(metadata, Mapping) else metadata


def _client_options(name: str, options: NodeOptions) -> NodeOptions:
    """Return the options for the node of a client.

    Raises:
        ConfigError: they name acceptors.
    """
    acceptors = tuple(options.network.acceptors)
    if acceptors not in ((), tuple(NetworkOptions().acceptors)):
        raise ConfigError(
            f"client {name} cannot listen, and has {len(acceptors)} acceptors",
            side=Side.LOCAL,
            hint="write NetworkOptions(acceptors=()); a node that listens needs "
            "start_node, or serve",
        )
    # Processes of one program have clients of one name, and their peers must not take
    # each new link for a restart that ends the link before.
    group = (
        options.group
        or hashlib.blake2b(
            b"fastnode.blocking " + name.encode(), digest_size=GROUP_BYTES
        ).digest()
    )
    return replace(options, network=replace(options.network, acceptors=()), group=group)


def _unchanging(payload: Payload) -> Payload:
    """Return a payload that the caller cannot change while the loop sends it."""
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)
    return payload
