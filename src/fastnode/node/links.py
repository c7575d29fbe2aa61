"""The links of a node: which of two links with one peer stays, and who hears of links.

How it works. A node reaches a peer through at most one link. It is called addressable:
messages to the peer's name take it. Two nodes that dial each other at the same time
must keep the same link. The rule is by name: the dial of the node whose name sorts
first wins.

An inbound HELLO comes from a peer that this node is dialing:

- The own dial has not sent its HELLO. The peer has not judged it yet, so the own dial
  is dropped, and the inbound link is admitted.
- The own dial has sent its HELLO, and the own name sorts first. The inbound link waits
  for the result of the own dial. If the own dial comes up, the inbound link is refused
  as a duplicate. Otherwise it is admitted.
- The own dial has sent its HELLO, and the peer's name sorts first. The inbound link is
  admitted. The peer refuses the own dial by the same rule.

An inbound HELLO comes from a peer whose link is up:

- It comes from another instance. The peer was restarted, and the old link is dead. The
  new link replaces it.
- It comes from the same instance, and that instance dialed the old link too. It has
  lost the old link, and the new link replaces it.
- It comes from the same instance, but this node dialed the old link. The peer may not
  know yet that the old link is up, because ACCEPT is late. The inbound link is refused,
  and the old link is checked: if nothing comes on it within CHECK_SECONDS, it is lost,
  and the next attempt of the peer is admitted.

After this node has accepted an inbound link, the peer has to confirm it. For as long as
that should take, this node does not dial the peer. If two links come up at once
nevertheless, because frames were late, the dial of the node whose name sorts first wins
on both sides.

The workers of one group (fastnode.workers) are nodes of one name that run side by side.
The first half of their instance ids is the same. Another worker of a group is no
restart: its link comes up beside the first one, as its sibling. One of the siblings has
the name. When it closes, the next one takes the name. The rules above are for links
with one worker. A new group ends all links with the group before it.

An inbound HELLO may show the ticket of a link that is up. Then the new link succeeds
that link (fastnode.node.succession), if it comes from the same instance of the peer and
is as well verified. None of the rules above applies. A ticket that does not fit is
ignored.

A node that stops says so on its links (LEAVING). Neither side addresses such a link any
more, so none of the rules above applies to it: a newer link, with the same instance or
with another one, comes up beside it. The peer closes the link in order when nothing is
under way on it. Until then it is kept for callers that cannot get another link.

Only links of verified peers are addressable, unless this node verifies nobody. So an
unverified peer can send to this node, but nothing that is meant for a name is sent to
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastnode.dispatch.user_code import HookFailed
from fastnode.errors import (
    CloseReason,
    DuplicateLink,
    LinkClosed,
    LinkLost,
    ProtocolError,
    Side,
)
from fastnode.limits import CHECK_SECONDS, LINGER_SECONDS, MAX_RETIRING_LINKS
from fastnode.link.machine import State
from fastnode.link.stats import LinkTotals
from fastnode.node.deadline import wait_cancelled
from fastnode.options import check_plain

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.link.stats import Undelivered
    from fastnode.node.deadline import Deadline
    from fastnode.node.pending import PendingConnections
    from fastnode.node.slow import SlowCallbacks
    from fastnode.options import OnLinkDown, OnLinkUp
    from fastnode.peer import Peer

__all__ = ["LinkEvents", "LinkRegistry", "older"]

log = logging.getLogger("fastnode.node")

#: The part of the time for stopping in which unfinished links report what is left.
LAST_WORDS = 0.1


class PendingDial(Protocol):
    """A dial of this node that has not ended."""

    @property
    def hello_sent(self) -> bool: ...
    @property
    def verifies(self) -> bool: ...
    def supersede(self) -> None: ...
    async def attempt_over(self) -> None: ...


class LinkEvents:
    """Calls `on_link_up` and `on_link_down`, in the order of the events.

    Callbacks run in a later turn of the loop, so none runs while a link changes state.
    """

    def __init__(
        self,
        slow: SlowCallbacks,
        on_up: OnLinkUp | None = None,
        on_down: OnLinkDown | None = None,
    ) -> None:
        self._slow = slow
        self._on_up = [on_up] if on_up is not None else []
        self._on_down = [on_down] if on_down is not None else []

    def add_up(self, callback: OnLinkUp) -> None:
        """Call `callback` with each link that comes up.

        Raises:
            ConfigError: it is no plain function.
        """
        check_plain("the callback of on_link_up", callback)
        self._on_up.append(callback)

    def add_down(self, callback: OnLinkDown) -> None:
        """Call `callback` with each link that goes down, and the reason.

        Raises:
            ConfigError: it is no plain function.
        """
        check_plain("the callback of on_link_down", callback)
        self._on_down.append(callback)

    def up(self, link: Link) -> None:
        """Report a link that has come up."""
        for callback in self._on_up:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_up", callback, link
            )

    def down(self, link: Link, reason: FastnodeError) -> None:
        """Report a link that has gone down."""
        for callback in self._on_down:
            asyncio.get_running_loop().call_soon(
                self._tell, "on_link_down", callback, link, reason
            )

    def _tell(self, hook: str, callback: Callable[..., object], *what: Any) -> None:
        try:
            self._slow.call(hook, callback, *what)
        except HookFailed as failed:
            log.error(
                "a callback for links raised: %r", callback, exc_info=failed.error
            )


class LinkRegistry:
    """Every connection of a node, from its first byte to its last."""

    def __init__(self, own: str, events: LinkEvents, *, verifies: bool) -> None:
        self._own = own
        self.events = events
        self._verifies = verifies
        self._by_name: dict[str, LinkProtocol] = {}
        # Further links with workers of one group, beside the link in _by_name. By the
        # peer's name and instance, in the order in which they came up.
        self._siblings: dict[str, dict[str, LinkProtocol]] = {}
        self._up: dict[LinkProtocol, Link] = {}
        self._all: set[LinkProtocol] = set()
        self._finishing: set[LinkProtocol] = set()
        #: Counts what the links did that are not registered any more.
        self.totals = LinkTotals()
        self._waiters: dict[str, set[asyncio.Future[Link]]] = {}
        self._changes: dict[str, asyncio.Future[None]] = {}
        # Links that were reported to be up, and successors of such links.
        self._told: set[LinkProtocol] = set()
        # Inbound links that were accepted and that the peer has not confirmed yet.
        self._welcomed: dict[str, list[LinkProtocol]] = {}
        self._by_ticket: dict[bytes, LinkProtocol] = {}
        # Links that were addressable until either side said that it stops, by name.
        self._leaving: dict[str, list[LinkProtocol]] = {}
        #: Called with each link that comes up while this node stops.
        self.on_late: Callable[[LinkProtocol], None] | None = None
        self.dials: dict[str, PendingDial] = {}
        self.on_asked: Callable[[LinkProtocol], None] | None = None
        #: The connections of each acceptor that have not begun their handshake.
        self.pending: list[PendingConnections] = []

    # --- looking up ------------------------------------------------------------

    def find(self, name: str) -> Link | None:
        """Return the addressable link of a peer, if it is up."""
        try:
            protocol = self._by_name.get(name)
        except TypeError:
            return None  # a list, for example: `Dialer.check` says that it is no name
        return protocol.link if protocol is not None else None

    def leaving(self, name: str) -> Link | None:
        """Return a link with a peer that is up although either side stops."""
        for protocol in self._leaving.get(name, ()):
            if protocol.state is State.UP:
                return protocol.link
        return None

    def up(self) -> tuple[Link, ...]:
        """Return all links that are up."""
        return tuple(self._up.values())

    def in_use(self, name: str | None = None) -> list[LinkProtocol]:
        """Return the links that new messages may take: those of a peer, or all."""
        if name is not None:
            return self._links_of(name)
        return [
            each
            for each in self._up
            if each.state is State.UP and not each.extensions.leaving
        ]

    def __iter__(self) -> Iterator[LinkProtocol]:
        return iter(self._all | self._finishing)

    def _links_of(self, name: str) -> list[LinkProtocol]:
        """Return the addressable link of a peer, then its siblings."""
        known = self._by_name.get(name)
        if known is None:
            return []
        return [known, *self._siblings.get(name, {}).values()]

    def _link_with(self, peer: Peer) -> LinkProtocol | None:
        """Return the link with this worker of a peer, or else the addressable one."""
        sibling = self._siblings.get(peer.name, {}).get(peer.instance)
        return sibling or self._by_name.get(peer.name)

    async def wait_for(self, name: str, timeout: float) -> Link | None:
        """Wait until a peer has an addressable link; None after `timeout` seconds."""
        link = self.find(name)
        if link is not None:
            return link
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(name, set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            return None
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(name, None)

    def change(self, name: str) -> asyncio.Future[None]:
        """Return a future that is done when a peer gets or loses its addressable link.

        Use it with `asyncio.wait` only. It is shared, and a task that awaits it
        directly would cancel it for all.
        """
        change = self._changes.get(name)
        if change is None or change.done():
            change = asyncio.get_running_loop().create_future()
            self._changes[name] = change
        return change

    def _changed(self, name: str) -> None:
        change = self._changes.pop(name, None)
        if change is not None and not change.done():
            change.set_result(None)

    # --- admission -------------------------------------------------------------

    def addressable(self, peer: Peer) -> bool:
        """Whether messages to the peer's name may take a link with this peer.

        An unverified peer never takes a name from a verified one, nor from a dial that
        will verify, whatever the options of this node are.
        """
        if peer.verified:
            return True
        if self._verifies:
            return False
        known, dial = self._by_name.get(peer.name), self.dials.get(peer.name)
        if known is not None and known.peer is not None and known.peer.verified:
            return False
        return dial is None or not dial.verifies

    def displaced(self, peer: Peer) -> list[LinkProtocol]:
        """Return the links that a new link with this peer will replace, including
        inbound links that the peer has not confirmed yet."""
        if not self.addressable(peer):
            return []
        olds = self._links_of(peer.name) + self._welcomed.get(peer.name, [])
        return [old for old in olds if not is_beside(peer, old)]

    async def admit_inbound(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Admit a further inbound link with this peer, or raise.

        Raises:
            DuplicateLink: another link with the peer stays.
        """
        if not self.addressable(peer):
            return
        while True:
            known = self._link_with(peer)
            if known is not None and known.peer is not None:
                same = known.peer.instance == peer.instance
                as_good = known.peer.verified or not peer.verified
                if same and as_good and known.dialer:
                    settings = known.settings
                    known.check(min(CHECK_SECONDS, settings.handshake_timeout / 3))
                    raise self._duplicate(peer.name)
                break
            dial = self.dials.get(peer.name)
            if dial is None:
                break
            if not dial.hello_sent:
                dial.supersede()
                break
            if peer.name < self._own:
                break
            await dial.attempt_over()
        self._welcomed.setdefault(peer.name, []).append(protocol)

    def welcomed(self, name: str) -> bool:
        """Whether an inbound link was accepted that this peer has not confirmed yet."""
        return name in self._welcomed

    def _confirmed(self, protocol: LinkProtocol) -> None:
        """Forget an inbound link that the peer has confirmed, or never will."""
        peer = protocol.peer
        if peer is None or peer.name not in self._welcomed:
            return
        left = [each for each in self._welcomed[peer.name] if each is not protocol]
        if left:
            self._welcomed[peer.name] = left
        else:
            del self._welcomed[peer.name]

    async def admit_successor(self, protocol: LinkProtocol, peer: Peer) -> bool:
        """Whether an inbound link succeeds the link whose ticket it shows."""
        ticket = protocol.succession.claimed
        old = self._by_ticket.get(ticket) if ticket is not None else None
        if old is None:
            return False
        while (held := old.succession.held) is not None:
            await asyncio.wait([held])
        if (
            old.state is not State.UP
            or old.peer is None
            or (old.peer.name, old.peer.instance) != (peer.name, peer.instance)
            or old.peer.verified != peer.verified
            or len(older(old)) >= MAX_RETIRING_LINKS
        ):
            log.info("a link from %s does not succeed the one it names", peer)
            return False
        protocol.succession.predecessor = old
        return True

    def admit_outbound(self, peer: Peer) -> None:
        """Admit a link that this node dialed, or raise.

        Raises:
            DuplicateLink: an inbound link with the peer came up meanwhile.
        """
        known = self._link_with(peer)
        if (
            known is not None
            and known.peer is not None
            and known.peer.instance == peer.instance
            and (known.peer.verified or not peer.verified)
        ):
            raise self._duplicate(peer.name)

    def _duplicate(self, name: str) -> DuplicateLink:
        return DuplicateLink(
            "another link between the two nodes stays", peer=name, side=Side.LOCAL
        )

    # --- the life of a link ----------------------------------------------------

    def connected(self, protocol: LinkProtocol) -> None:
        """Register a connection; TLS begins."""
        self._all.add(protocol)
        protocol.gone.add_done_callback(lambda _: self.gone(protocol))

    def came_up(self, protocol: LinkProtocol) -> None:
        """Register a link that is up. It may replace an older one with the same
        peer."""
        link, peer = protocol.link, protocol.peer
        assert link is not None
        assert peer is not None
        self._confirmed(protocol)
        self._up[protocol] = link
        log.info("link up: %s", peer)
        succession = protocol.succession
        succession.on_asked = self.on_asked
        protocol.extensions.on_leaving = self.peer_leaves
        if not protocol.dialer and succession.ticket is not None:
            self._by_ticket[succession.ticket] = protocol
        predecessor = succession.predecessor
        if predecessor is not None and not self._succeed(predecessor, protocol):
            return
        if self.addressable(peer):
            for old in self._links_of(peer.name):
                if old is predecessor or is_beside(peer, old):
                    continue
                if self._stays(old, peer):
                    self._end_loser(protocol)
                    return
                self._end_older(old)
            self._name(protocol, peer, predecessor)
        if predecessor is not None and predecessor in self._told:
            # For callbacks it is the same link on a new connection.
            self._told.discard(predecessor)
        else:
            self.events.up(link)
        self._told.add(protocol)
        if self.on_late is not None:
            self.on_late(protocol)

    def _name(
        self, protocol: LinkProtocol, peer: Peer, predecessor: LinkProtocol | None
    ) -> None:
        """Make a link addressable, or a sibling of the one that is."""
        known = self._by_name.get(peer.name)
        if known is not None and known is not predecessor:
            self._siblings.setdefault(peer.name, {})[peer.instance] = protocol
            return
        self._by_name[peer.name] = protocol
        assert protocol.link is not None
        for waiter in self._waiters.pop(peer.name, ()):
            if not waiter.done():
                waiter.set_result(protocol.link)
        self._changed(peer.name)

    def _unname(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Make a link unreachable. If it was addressable, a sibling takes the name."""
        siblings = self._siblings.get(peer.name, {})
        if self._by_name.get(peer.name) is protocol:
            if siblings:
                self._by_name[peer.name] = siblings.pop(next(iter(siblings)))
            else:
                del self._by_name[peer.name]
            self._changed(peer.name)
        elif siblings.get(peer.instance) is protocol:
            del siblings[peer.instance]
        if not siblings:
            self._siblings.pop(peer.name, None)

    def peer_leaves(self, protocol: LinkProtocol) -> None:
        """Register that a peer has said that it stops."""
        if protocol.link is None or protocol.link.closed:
            return
        log.info("%s stops: new messages and calls take another link", protocol.peer)
        self.turn_away(protocol)

    def turn_away(self, protocol: LinkProtocol) -> None:
        """Make a link unreachable because either side stops. It stays up."""
        peer = protocol.peer
        assert peer is not None
        if protocol in self._links_of(peer.name):
            self._unname(protocol, peer)
            self._leaving.setdefault(peer.name, []).append(protocol)

    def prefer(self, protocol: LinkProtocol) -> None:
        """Make a link addressable, and the one that was its sibling."""
        peer = protocol.peer
        assert peer is not None
        siblings = self._siblings.get(peer.name, {})
        if siblings.get(peer.instance) is protocol:
            known = self._by_name[peer.name]
            assert known.peer is not None
            del siblings[peer.instance]
            siblings[known.peer.instance] = known
            self._by_name[peer.name] = protocol
            self._changed(peer.name)

    def _stays(self, old: LinkProtocol, peer: Peer) -> bool:
        """Whether an older link with the same instance stays, although an inbound one
        is up. Both came up at once, and the dial of this node wins."""
        return (
            old.dialer
            and old.peer is not None
            and old.peer.instance == peer.instance
            and (old.peer.verified or not peer.verified)
            and self._own < peer.name
        )

    def _end_loser(self, protocol: LinkProtocol) -> None:
        text = "another link between the two nodes stays"
        error = LinkClosed(text, peer=protocol.peer, side=Side.LOCAL)
        protocol.terminate(error, CloseReason.DUPLICATE_LINK, text)

    def _end_older(self, old: LinkProtocol) -> None:
        text = "a newer link took the place of this one"
        error = LinkLost(
            f"a newer link with {old.peer_text()} took the place of this one",
            peer=old.peer,
            side=Side.LOCAL,
        )
        old.terminate(error, CloseReason.REPLACED, text)

    def _succeed(self, old: LinkProtocol, new: LinkProtocol) -> bool:
        """Let `new` succeed `old`, if `old` is still there; False: `new` was ended."""
        if old.state is State.CLOSED:
            new.succession.predecessor = None
        elif old.succession.successor is None and old.state is not State.RETIRING:
            old.hand_over_to(new)
        else:
            text = "two links succeed the same one"
            error = ProtocolError(text, peer=new.peer, side=Side.REMOTE)
            new.terminate(error, CloseReason.PROTOCOL_ERROR, text)
            return False
        return True

    async def close(
        self, deadline: Deadline, also: Iterable[LinkProtocol]
    ) -> tuple[Undelivered, ...]:
        """Close all links in order, and abort those that have not ended in time.

        Args:
            deadline: when all sockets are aborted.
            also: links that may have ended before, for what is returned.

        Returns:
            What was not delivered.
        """
        protocols = list(dict.fromkeys((*also, *self)))
        shortened = True
        while shortened:
            # A part of the time is reserved: in it, links report what they could not
            # send, to this node and to the peer.
            timeout = deadline.left
            last_words = min(LINGER_SECONDS, timeout * LAST_WORDS)
            for protocol in self:
                protocol.begin_close(CloseReason.SHUTDOWN, timeout - last_words)
            shortened = await deadline.wait([protocol.gone for protocol in self])
        for protocol in self:
            protocol.abort()
        handlers = [task for p in self for task in p.cancel_handlers()]
        waits = [protocol.gone for protocol in self]
        if waits:
            await asyncio.wait(waits, timeout=LINGER_SECONDS)
        await wait_cancelled(self._own, handlers)
        return tuple(u for p in protocols if (u := p.undelivered) is not None)

    def closing(self, protocol: LinkProtocol) -> None:
        """Register a link on which nothing can be sent any more."""
        peer = protocol.peer
        if peer is not None:
            self._unname(protocol, peer)
            leaving = self._leaving.get(peer.name)
            if leaving is not None and protocol in leaving:
                leaving.remove(protocol)
                if not leaving:
                    del self._leaving[peer.name]
        if protocol in self._told:
            self._told.discard(protocol)
            assert protocol.link is not None
            assert protocol.reason is not None
            self.events.down(protocol.link, protocol.reason)

    def ended(self, protocol: LinkProtocol) -> None:
        """Register a link that has ended. Its socket may linger."""
        self._confirmed(protocol)
        self.closing(protocol)
        ticket = protocol.succession.ticket
        if ticket is not None and self._by_ticket.get(ticket) is protocol:
            del self._by_ticket[ticket]
        if self._up.pop(protocol, None) is not None:
            error = protocol.error
            # The usual hint is to connect again, which an acceptor cannot do.
            if error is not None and error.hint == type(error).usual_hint:
                log.info("link down: %s", error.message)
            else:
                log.info("link down: %s", error)

    def gone(self, protocol: LinkProtocol) -> None:
        """Forget a link whose socket is closed, when its handlers have finished."""
        self._all.discard(protocol)
        if protocol.running:
            self._finishing.add(protocol)
            protocol.when_idle(partial(self._finished, protocol))
        else:
            self.totals.add(protocol)

    def _finished(self, protocol: LinkProtocol) -> None:
        """Forget a link whose socket is closed and whose last handler has finished."""
        protocol.when_idle(None)
        self._finishing.discard(protocol)
        self.totals.add(protocol)

    def disown(self) -> None:
        """Forget all links: they belong to another process."""
        for known in (self._by_name, self._siblings, self._up, self._by_ticket):
            known.clear()
        self._all.clear()
        self._finishing.clear()
        self._leaving.clear()


def is_beside(peer: Peer, old: LinkProtocol) -> bool:
    """Whether a link with this peer comes up beside an older one and does not replace
    it."""
    return (
        old.peer is not None
        and peer.is_sibling_of(old.peer)
        and (old.peer.verified or not peer.verified)
    )


def older(protocol: LinkProtocol) -> list[LinkProtocol]:
    """Return the links that this one has succeeded and that have not ended yet."""
    found: list[LinkProtocol] = []
    before = protocol.succession.predecessor
    while before is not None:
        found.append(before)
        before = before.succession.predecessor
    return found
