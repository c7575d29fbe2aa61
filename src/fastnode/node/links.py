"""The links of a node, and which of two links between the same nodes stays.

Theory of operation. A node reaches a peer through at most one link: the one that is
addressable under the peer's name. Two nodes that dial each other at the same time
must keep the same one. The rule is by name: the dial of the node whose name sorts
first wins.

An inbound HELLO from a peer that we are dialing ourselves:

- our dial has not sent its HELLO: nobody has judged it, so it is dropped, and the
  inbound link is taken;
- it has, and our name sorts first: the inbound one waits for the outcome of ours; if
  ours comes up the inbound one is refused as a duplicate, otherwise it is taken;
- it has, and the peer's name sorts first: the inbound one is taken; the peer, by the
  same rule, will refuse ours.

An inbound HELLO from a peer whose link is up: another instance of it has taken its
name, so it was restarted and the old link is dead; or the same instance dials again,
so it has lost that link and the new one replaces it; except that a link which we dialed
may be news to the peer, because our ACCEPT is late: the inbound one is refused, and
ours is checked. Unless something is heard of it within CHECK_SECONDS it is lost, and
the next attempt of the peer is taken.

We do not dial a peer whose inbound link we have accepted, and who only has to confirm
it, for as long as that should take. Where two links come up at once nevertheless,
because frames were late, the dial of the node whose name sorts first wins, on both
sides.

The workers of one group (fastnode.workers) are nodes of one name that run side by side;
the first half of their instance ids is the same. Another worker of a group is no
restart: its link comes up beside the first, as its sibling. One of them has the name;
when it closes, the next one takes it. Whatever is said of "the link of a peer" above is
said of the link with one worker; a new group ends all links of the one before.

An inbound HELLO with the ticket of a link that is up succeeds that link and no other
(fastnode.link.succession), if it comes from the same run of the peer and is as well
verified. No rule above applies then. A ticket that does not fit is as none.

Only links of verified peers are addressable, unless this node verifies nobody: a
stranger who uses a name can talk to us but is never spoken to under that name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

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
from fastnode.node.deadline import wait_cancelled

if TYPE_CHECKING:
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.link.stats import Undelivered
    from fastnode.node.events import LinkEvents
    from fastnode.node.pending import PendingConnections
    from fastnode.peer import Peer

__all__ = ["LinkRegistry", "older"]

log = logging.getLogger("fastnode.node")

#: The part of the time for stopping in which links that are not done say so.
LAST_WORDS = 0.1


class PendingDial(Protocol):
    """A dial of ours that has not ended."""

    @property
    def hello_sent(self) -> bool: ...
    @property
    def verifies(self) -> bool: ...
    def supersede(self) -> None: ...
    async def attempt_over(self) -> None: ...


class LinkRegistry:
    """Every connection of a node, from its first byte to its last."""

    def __init__(self, own: str, events: LinkEvents, *, verifies: bool) -> None:
        self._own = own
        self.events = events
        self._verifies = verifies
        self._by_name: dict[str, LinkProtocol] = {}
        # Further links with workers of the group whose link is the one above; by the
        # peer's name and instance, in the order of their coming.
        self._siblings: dict[str, dict[str, LinkProtocol]] = {}
        self._up: dict[LinkProtocol, Link] = {}
        self._all: set[LinkProtocol] = set()
        self._finishing: set[LinkProtocol] = set()
        self._waiters: dict[str, set[asyncio.Future[Link]]] = {}
        self._changes: dict[str, asyncio.Future[None]] = {}
        # Links that were told to be up, or that have succeeded one that was.
        self._told: set[LinkProtocol] = set()
        # Peers whose inbound links we have accepted and that have not answered yet.
        self._welcomed: dict[str, list[LinkProtocol]] = {}
        self._by_ticket: dict[bytes, LinkProtocol] = {}
        self.dials: dict[str, PendingDial] = {}
        self.on_asked: Callable[[LinkProtocol], None] | None = None
        #: The connections of each acceptor that have not begun their handshake.
        self.pending: list[PendingConnections] = []

    # --- looking ---------------------------------------------------------------

    def find(self, name: str) -> Link | None:
        """The link under which a peer is reached, if it is up."""
        protocol = self._by_name.get(name)
        return protocol.link if protocol is not None else None

    def up(self) -> tuple[Link, ...]:
        """All links that are up."""
        return tuple(self._up.values())

    def in_use(self, name: str | None = None) -> list[LinkProtocol]:
        """The links that new messages may take: of a peer, or all."""
        if name is not None:
            return self._links_of(name)
        return [each for each in self._up if each.state is State.UP]

    def __iter__(self) -> Iterator[LinkProtocol]:
        return iter(self._all | self._finishing)

    def _links_of(self, name: str) -> list[LinkProtocol]:
        """The link under which a peer is reached, then its siblings."""
        known = self._by_name.get(name)
        if known is None:
            return []
        return [known, *self._siblings.get(name, {}).values()]

    def _link_with(self, peer: Peer) -> LinkProtocol | None:
        """The link with this worker of a peer, else the one that has the name."""
        sibling = self._siblings.get(peer.name, {}).get(peer.instance)
        return sibling or self._by_name.get(peer.name)

    async def wait_for(self, name: str, timeout: float) -> Link | None:
        """Wait until a peer can be reached, at most `timeout` seconds."""
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
        """A future: of the next time that a peer can be reached, or cannot any more.

        For `asyncio.wait` only: it is shared, and whoever awaits it may be cancelled.
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

    # --- judging ---------------------------------------------------------------

    def addressable(self, peer: Peer) -> bool:
        """Whether messages to the peer's name may take a link to it.

        A peer that was not verified never takes a name from one that was, nor from a
        dial that will verify, whatever this node's options say of others.
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
        """The links that make way when one with this peer comes up; also inbound ones
        that only have to be confirmed."""
        if not self.addressable(peer):
            return []
        olds = self._links_of(peer.name) + self._welcomed.get(peer.name, [])
        return [old for old in olds if not is_beside(peer, old)]

    async def admit_inbound(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Say whether a further link with this peer may come up.

        Raises:
            DuplicateLink: another one stays.
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
        """Whether an inbound link of this peer only has to be confirmed by it."""
        return name in self._welcomed

    def _confirmed(self, protocol: LinkProtocol) -> None:
        """The peer has confirmed, or never will."""
        peer = protocol.peer
        if peer is None or peer.name not in self._welcomed:
            return
        left = [each for each in self._welcomed[peer.name] if each is not protocol]
        if left:
            self._welcomed[peer.name] = left
        else:
            del self._welcomed[peer.name]

    async def admit_successor(self, protocol: LinkProtocol, peer: Peer) -> bool:
        """Whether an inbound link is to succeed another one, whose ticket it shows."""
        ticket = protocol.peer_hello.succeeds
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
        """Say whether a link that we dialed is still wanted.

        Raises:
            DuplicateLink: an inbound one came up meanwhile.
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

    # --- hearing ---------------------------------------------------------------

    def connected(self, protocol: LinkProtocol) -> None:
        """A connection was made; TLS begins."""
        self._all.add(protocol)
        protocol.gone.add_done_callback(lambda _: self.gone(protocol))

    def came_up(self, protocol: LinkProtocol) -> None:
        """A link is up; an older one with the same peer makes way."""
        link, peer = protocol.link, protocol.peer
        assert link is not None
        assert peer is not None
        self._confirmed(protocol)
        self._up[protocol] = link
        log.info("link up: %s", peer)
        succession = protocol.succession
        succession.on_asked = self.on_asked
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
            # Nothing has changed but the connection.
            self._told.discard(predecessor)
        else:
            self.events.up(link)
        self._told.add(protocol)

    def _name(
        self, protocol: LinkProtocol, peer: Peer, predecessor: LinkProtocol | None
    ) -> None:
        """The link takes the peer's name, or its place beside the one that has it."""
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
        """It cannot be used any more: a sibling takes the name, if it had it."""
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

    def prefer(self, protocol: LinkProtocol) -> None:
        """Of the links with workers of one group, this one has the name from now on."""
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
        """Whether an older link with the same run of a peer stays, now that an inbound
        one is up: both came up at once, and ours wins."""
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
        protocol.end(error, CloseReason.DUPLICATE_LINK, text)

    def _end_older(self, old: LinkProtocol) -> None:
        text = "a newer link took the place of this one"
        error = LinkLost(
            f"a newer link with {old.peer_text()} took the place of this one",
            peer=old.peer,
            side=Side.LOCAL,
        )
        old.end(error, CloseReason.REPLACED, text)

    def _succeed(self, old: LinkProtocol, new: LinkProtocol) -> bool:
        """Hand `old` over, if it is still there; False: `new` has ended instead."""
        if old.state is State.CLOSED:
            new.succession.predecessor = None
        elif old.succession.successor is None and old.state is not State.RETIRING:
            old.move_to(new)
        else:
            text = "two links succeed the same one"
            error = ProtocolError(text, peer=new.peer, side=Side.REMOTE)
            new.end(error, CloseReason.PROTOCOL_ERROR, text)
            return False
        return True

    async def close(self, timeout: float, deadline: float) -> tuple[Undelivered, ...]:
        """End all links in order, and cut off what has not ended in time.

        Args:
            timeout: seconds for the end in order.
            deadline: when the loop's time is this, everything is cut.

        Returns:
            What was not done.
        """
        # What a link could not send in time it says, to us and to the peer, in the
        # rest of the time; then every socket is cut.
        last_words = min(LINGER_SECONDS, timeout * LAST_WORDS)
        protocols = list(self)
        for protocol in protocols:
            protocol.begin_close(CloseReason.SHUTDOWN, timeout - last_words)
        waits = [protocol.gone for protocol in self]
        if waits:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(waits, timeout=max(left, 0))
        for protocol in self:
            protocol.abort()
        handlers = [task for p in self for task in p.cancel_handlers()]
        waits = [protocol.gone for protocol in self]
        if waits:
            await asyncio.wait(waits, timeout=LINGER_SECONDS)
        await wait_cancelled(self._own, handlers)
        return tuple(u for p in protocols if (u := p.undelivered) is not None)

    def closing(self, protocol: LinkProtocol) -> None:
        """Nothing can be sent over this link any more."""
        peer = protocol.peer
        if peer is not None:
            self._unname(protocol, peer)
        if protocol in self._told:
            self._told.discard(protocol)
            assert protocol.link is not None
            assert protocol.reason is not None
            self.events.down(protocol.link, protocol.reason)

    def ended(self, protocol: LinkProtocol) -> None:
        """The link is over; its socket may linger."""
        self._confirmed(protocol)
        self.closing(protocol)
        ticket = protocol.succession.ticket
        if ticket is not None and self._by_ticket.get(ticket) is protocol:
            del self._by_ticket[ticket]
        if self._up.pop(protocol, None) is not None:
            error = protocol.error
            # Who only accepts has nothing to connect again.
            if error is not None and error.hint == type(error).usual_hint:
                log.info("link down: %s", error.message)
            else:
                log.info("link down: %s", error)

    def gone(self, protocol: LinkProtocol) -> None:
        """The socket is closed."""
        self._all.discard(protocol)
        if protocol.running:
            self._finishing.add(protocol)
            protocol.when_idle(partial(self._finished, protocol))

    def _finished(self, protocol: LinkProtocol) -> None:
        """The last handler of a link that is gone has finished."""
        protocol.when_idle(None)
        self._finishing.discard(protocol)

    def disown(self) -> None:
        """Know no link any more: they are another process's."""
        for known in (self._by_name, self._siblings, self._up, self._by_ticket):
            known.clear()
        self._all.clear()
        self._finishing.clear()


def is_beside(peer: Peer, old: LinkProtocol) -> bool:
    """Whether a link with this peer comes up beside an older one, not in its place."""
    return (
        old.peer is not None
        and peer.is_sibling_of(old.peer)
        and (old.peer.verified or not peer.verified)
    )


def older(protocol: LinkProtocol) -> list[LinkProtocol]:
    """The links that this one has succeeded and that have not ended yet."""
    found: list[LinkProtocol] = []
    before = protocol.succession.predecessor
    while before is not None:
        found.append(before)
        before = before.succession.predecessor
    return found
