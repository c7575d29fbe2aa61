"""Links with single instances of a service, by address: what services are built on.

`Node.connect` dials a node name, and one link with any instance of that name will do.
A service wants more: a link with each of its instances, wherever discovery has found
them. `Instances` is what it calls:

- ``await instances.connect(address, wanted, additional=..., timeout=...)`` dials one
  address and returns the `LinkProtocol` of the instance that answers. The name of the
  peer is learnt from its HELLO. A peer that does not belong to the service is refused
  before any message can be sent (`fastnode.node.membership`), and both sides are told.
- ``instances.links_of(wanted)`` returns the links with members of a service that new
  messages may take, whoever dialed them.
- ``instances.watch(callback)`` and ``unwatch`` tell of links that new messages may take
  from now on, or not any more.
- ``workers_of(link.peer_hello)`` says how many workers the group of a peer has.

``wanted`` is a `Membership`: ``Membership.of("billing", server_name)``.

How it works. A dial of an address cannot know which instance will answer. The instance
may be linked already: because it has dialed this node, because it has several
addresses, or because it is a worker of a group and all workers share one address. So
these dials are marked ADDITIONAL: the acceptor always says HELLO, and the dialer
decides. If the dialer has a link with that instance, it refuses the new one with
DUPLICATE_LINK, which both sides take for normal. Then

- a dial with ``additional=False`` returns the link that is up. The address leads to the
  instance at its other end.
- a dial with ``additional=True`` wants another worker of the group. It dials again, up
  to ADDITIONAL_DIALS times in all, and then raises `DuplicateLink`.

Peers of older versions may refuse a dial before their HELLO, without telling who they
are. Such a dial ends with `DuplicateLink` too. The instance behind the address is
linked with this node, and it is one of `links_of`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from fastnode.errors import (
    DuplicateLink,
    HandshakeTimeout,
    LinkClosed,
    PeerNameMismatch,
    Side,
)
from fastnode.link.instances import workers_of
from fastnode.link.machine import State
from fastnode.names import NodeName, check_address, check_timeout
from fastnode.node.deadline import wait_cancelled
from fastnode.node.dial import RETRY_SECONDS, WINNER_SECONDS
from fastnode.node.race import Race

if TYPE_CHECKING:
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.context import NodeContext
    from fastnode.node.membership import Membership
    from fastnode.node.targets import Target
    from fastnode.peer import Address, Peer

__all__ = ["AddressDial", "Instances", "workers_of"]

#: How often an address is dialed, if instances answer that are linked already. The
#: group of a peer hands each connection to the worker with the fewest, so few dials
#: reach another worker.
ADDITIONAL_DIALS: Final = 8
#: The same if any instance will do. The link with it is about to come up, or it runs an
#: older version and does not tell who it is.
DUPLICATE_DIALS: Final = 3


class AddressDial:
    """Dials one address, and links with the instance of a service that answers.

    Args:
        context: of the node.
        wanted: the service.
        target: the address, and how to verify who is there.
        additional: whether an instance that is linked already will not do.
    """

    def __init__(
        self,
        context: NodeContext,
        wanted: Membership,
        target: Target,
        *,
        additional: bool,
    ) -> None:
        self._context = context
        self._links = context.links
        self._wanted = wanted
        self._target = target
        self._additional = additional
        self._race: Race | None = None
        self._attempt: asyncio.Task[LinkProtocol] | None = None
        # The link with the instance that has answered, if another one stays.
        self._known: LinkProtocol | None = None

    async def run(self) -> LinkProtocol:
        """Return the link.

        Raises:
            As `Race.run`.
            PeerNameMismatch: also if the peer does not belong to the service.
        """
        self._links.instance_dials.add(self)
        try:
            return await self._run()
        finally:
            self._links.instance_dials.discard(self)
            # The tracebacks of errors refer to this object.
            self._attempt = self._known = None

    async def _run(self) -> LinkProtocol:
        number, dials = 0, ADDITIONAL_DIALS if self._additional else DUPLICATE_DIALS
        while True:
            number += 1
            self._known = None
            self._attempt = asyncio.get_running_loop().create_task(self._try())
            try:
                return await self._attempt
            except asyncio.CancelledError:
                self._attempt.cancel()
                raise
            except DuplicateLink as error:
                duplicate = error.with_traceback(None)
            if self._known is not None and not self._additional:
                link = await self._settled(self._known)
                if link is not None:
                    return link
            if number == dials:
                raise duplicate
            # Jitter, so that two nodes do not stay in step. The group of the peer hands
            # the next connection to another worker, if it knows of the links by then.
            await asyncio.sleep(RETRY_SECONDS * number * (0.5 + random.random()))

    async def _try(self) -> LinkProtocol:
        self._race = Race(self._context, self, self._wanted, [self._target])
        try:
            attempt = await self._race.run()
        finally:
            self._race = None
        assert attempt.protocol is not None
        return attempt.protocol

    async def _settled(self, known: LinkProtocol) -> LinkProtocol | None:
        """Return a link that stays when it is up; None if it does not come up."""
        if known.state < State.UP:
            await asyncio.wait([known.established], timeout=WINNER_SECONDS)
        if known.state is not State.UP:
            return None
        why = self._context.admission.why_no_member(known, self._wanted)
        if why is None:
            return known
        raise PeerNameMismatch(
            f"an instance of {self._wanted} answers at {self._target}, but a peer that "
            f"does not belong to it uses its instance id: {why}",
            peer=known.peer,
            side=Side.LOCAL,
            hint="see who that peer is",
        )

    # --- what the registry and a race ask -----------------------------------------

    def may_reach(self, peer: Peer) -> bool:
        """Whether an instance may be judging this dial at this moment."""
        if NodeName.parse(peer.name).name != self._wanted.service:
            return False
        winner = self._race.winner if self._race is not None else None
        protocol = winner.protocol if winner is not None else None
        if protocol is None or protocol.state > State.DECIDING:
            return False
        if protocol.state < State.DECIDING:
            return True
        hello = protocol.peer_hello
        return (str(hello.name), hello.instance.hex()) == (peer.name, peer.instance)

    async def attempt_over(self) -> None:
        """Wait until the current attempt has come up or failed."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    def introducing(self, protocol: LinkProtocol) -> None:
        """Mark the connection as ADDITIONAL, before it says HELLO."""
        protocol.additional = True

    def compare(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Raise if another link with the instance stays."""
        del protocol
        self._known = self._links.rival_of(peer)
        if self._known is not None:
            raise self._links.duplicate(peer)


class Instances:
    """The dials by address of one node, and its links by service."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._links = context.links
        self._tasks: set[asyncio.Task[LinkProtocol]] = set()
        self._closed = False

    async def connect(
        self,
        address: Address,
        wanted: Membership,
        *,
        additional: bool = False,
        timeout: float | None = None,
    ) -> LinkProtocol:
        """Dial one address, and return the link with the instance that answers.

        Args:
            address: host and port.
            wanted: the service that the peer has to belong to.
            additional: whether to dial again if the instance that answers is linked
                already: another worker of a group is wanted.
            timeout: seconds for all of it; None: each attempt has the time of a
                handshake.

        Raises:
            ConfigError: `address` or `timeout` cannot be used.
            PeerNameMismatch: the peer does not belong to the service; its subclass
                `DialedItself`: it is this instance.
            DuplicateLink: the instance is linked already, and another one was wanted,
                or it has not told who it is.
            HandshakeError: refused, by either side; a subclass says why.
            HandshakeTimeout: also if the time is over.
            NoRoute: nobody could be reached.
            OutOfResources: this process has no descriptors or memory left.
            LinkClosed: this node stops.
        """
        target = self._context.targets.at(check_address(address), wanted.server_name)
        seconds = None if timeout is None else check_timeout(timeout)
        if self._closed:
            raise self._stopped()
        dial = AddressDial(self._context, wanted, target, additional=additional)
        task = self._begin(dial.run())
        try:
            async with asyncio.timeout(seconds) as scope:
                return await task
        except TimeoutError:
            if not scope.expired():
                raise
            raise HandshakeTimeout(
                f"no link with {wanted} at {target} came up within {timeout:g} s",
                peer=str(target),
                side=Side.REMOTE,
                hint="the peer is slow, overloaded, or not a fastnode peer",
            ) from None
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._closed and (current is None or not current.cancelling()):
                raise self._stopped() from None
            raise

    def _begin(
        self, dialing: Coroutine[Any, Any, LinkProtocol]
    ) -> asyncio.Task[LinkProtocol]:
        """Run a dial in the context of the node, as every dial."""
        loop, context = asyncio.get_running_loop(), self._context.registry.context
        task = context.run(loop.create_task, dialing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def links_of(self, wanted: Membership) -> list[LinkProtocol]:
        """Return the links with members of a service that new messages may take."""
        return [
            link
            for name in self._links.names()
            if NodeName.parse(name).name == wanted.service
            for link in self._links.links_of(name)
            if self.why_no_member(link, wanted) is None
        ]

    def why_no_member(self, link: LinkProtocol, wanted: Membership) -> str | None:
        """Return why the peer of a link does not belong to a service; None if it
        does."""
        return self._context.admission.why_no_member(link, wanted)

    def watch(self, callback: Callable[[LinkProtocol, bool], None]) -> None:
        """Call a function with each link that new messages may take from now on and
        True, and with each link that they may not take any more and False.

        The function is called while links change: it must not raise, wait, or change
        links. All links with verified peers are reported, of whatever service.
        """
        self._links.watchers.append(callback)

    def unwatch(self, callback: Callable[[LinkProtocol, bool], None]) -> None:
        """Call a function of `watch` no more."""
        self._links.watchers.remove(callback)

    def _stopped(self) -> LinkClosed:
        return LinkClosed(
            f"node {self._context.name} was stopped",
            side=Side.LOCAL,
            hint="start a new node",
            begun="no",
        )

    async def close(self) -> None:
        """Cancel all dials, and begin no more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await wait_cancelled(str(self._context.name), tuple(self._tasks))
