"""The links of a node: which of two links with one peer stays, and who hears of links.

How it works. Several instances may run under one node name: the pods of a Deployment,
or the workers of a group. So a link belongs to a node name and an instance id, and a
node may have one link with each instance of a name. All these links can be used. One
of them is *addressable*: messages to the node name take it. It is the one that came up
first. When it closes, the next one becomes addressable.

Two instances that dial each other at the same time must keep the same link. The rule:
the dial of the instance with the smaller pair (node name, instance id) wins.

An inbound HELLO comes while this node is dialing the name of the peer, and no link with
this instance is up:

- The own dial has not sent its HELLO. Nobody has judged it yet, so the own dial is
  dropped, and the inbound link is admitted.
- The own dial has sent its HELLO, and the own pair is smaller. The own dial may lead to
  the same instance or to another one, so the inbound link waits for its result. If the
  own dial comes up with the same instance, the inbound link is refused as a duplicate.
  Otherwise the inbound link is admitted.
- The own dial has sent its HELLO, and the pair of the peer is smaller. The inbound link
  is admitted. If the own dial leads to the same instance, the peer refuses it by the
  same rule.

A wait of this kind always leads from an instance to one with a smaller pair. So
instances never wait for each other in a circle.

An inbound HELLO comes from an instance whose link is up:

- The peer dialed the old link too. It has lost the old link, and the new link replaces
  it.
- This node dialed the old link. The peer may not know yet that the old link is up,
  because ACCEPT is late. The inbound link is refused, and the old link is checked: if
  nothing comes on it within CHECK_SECONDS, it is lost, and the next attempt of the peer
  is admitted.
- A dial that is marked ADDITIONAL is not refused, because its dialer needs our HELLO to
  learn which instance has answered. The dialer refuses the link if it knows the old one
  (`fastnode.node.instances`).

After this node has accepted an inbound link, the peer has to confirm it. For as long as
that should take, this node does not dial the name of the peer. If two links with one
instance come up at once nevertheless, because frames were late, both sides apply the
rule above.

Another instance of a name comes up. It may run beside the instances that are linked, or
it may be one of them, restarted. The new link comes up at once, and the older links are
checked. If nothing comes on an older link within CHECK_SECONDS, its instance is gone:
the link is replaced, and a warning says so. If all of them answer, all links stay. The
workers of one group (fastnode.workers) need no check. The first half of their instance
ids is the same, so another one is no restart.

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
it. Where this node verifies nobody, a verified peer ends the links of unverified peers
under its name, and an unverified peer never ends the link of a verified one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastnode.errors import (
    CloseReason,
    DuplicateLink,
    LinkClosed,
    LinkLost,
    ProtocolError,
    Side,
)
from fastnode.limits import CHECK_SECONDS, LINGER_SECONDS, MAX_RETIRING_LINKS
from fastnode.link.instances import is_additional
from fastnode.link.machine import State
from fastnode.link.stats import LinkTotals
from fastnode.log_limit import LogLimit
from fastnode.loggers import fields
from fastnode.node.deadline import wait_cancelled

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.link.stats import Undelivered
    from fastnode.node.deadline import Deadline
    from fastnode.node.link_events import LinkEvents
    from fastnode.node.pending import PendingConnections
    from fastnode.peer import Address, Peer

__all__ = ["LinkRegistry", "older"]

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


class InstanceDial(Protocol):
    """A dial of one address that has not ended; see `fastnode.node.instances`."""

    def may_reach(self, peer: Peer) -> bool:
        """Whether an instance may be judging this dial at this moment."""

    async def attempt_over(self) -> None: ...


class LinkRegistry:
    """Every connection of a node, from its first byte to its last."""

    def __init__(
        self, own: str, instance: str, events: LinkEvents, *, verifies: bool
    ) -> None:
        self._own = own
        self._own_pair = (own, instance)
        self.events = events
        self._verifies = verifies
        # The addressable link of each node name.
        self._by_name: dict[str, LinkProtocol] = {}
        # Links with further instances of a name, beside the link in _by_name. By the
        # peer's name and instance, in the order in which they came up.
        self._others: dict[str, dict[str, LinkProtocol]] = {}
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
        self.instance_dials: set[InstanceDial] = set()
        #: Called with the address of each dialer that wants another instance, because
        #: it is linked with this one.
        self.on_duplicate: Callable[[Address], None] | None = None
        #: Called with each link that new messages may take from now on and True, and
        #: with each link that they may not take any more and False.
        self.watchers: list[Callable[[LinkProtocol, bool], None]] = []
        self._limit = LogLimit(log, node=own)
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
        """Return the links that new messages may take: those of a name, or all."""
        if name is not None:
            return self.links_of(name)
        return [
            each
            for each in self._up
            if each.state is State.UP and not each.extensions.leaving
        ]

    def __iter__(self) -> Iterator[LinkProtocol]:
        return iter(self._all | self._finishing)

    def links_of(self, name: str) -> list[LinkProtocol]:
        """Return the links with all instances of a node name, the addressable one
        first. Links whose peer is not verified are missing, unless this node verifies
        nobody."""
        known = self._by_name.get(name)
        if known is None:
            return []
        return [known, *self._others.get(name, {}).values()]

    def names(self) -> list[str]:
        """Return the node names that have an addressable link."""
        return list(self._by_name)

    def link_with(self, peer: Peer) -> LinkProtocol | None:
        """Return the link with this instance, if it is up and no worse verified."""
        known = self._by_name.get(peer.name)
        if known is not None and not is_same(peer, known):
            known = self._others.get(peer.name, {}).get(peer.instance)
        return known if known is not None and is_as_good(known, peer) else None

    def rival_of(self, peer: Peer) -> LinkProtocol | None:
        """Return the link with an instance that stays, if this node has dialed it once
        more: a link that is up, or an inbound link that is about to come up and whose
        dial wins."""
        known = self.link_with(peer)
        if known is not None or self._wins_over(peer):
            return known
        for welcomed in self._welcomed.get(peer.name, ()):
            if is_same(peer, welcomed) and is_as_good(welcomed, peer):
                return welcomed
        return None

    def _wins_over(self, peer: Peer) -> bool:
        """Whether a dial of this node wins over one of the peer."""
        return self._own_pair < (peer.name, peer.instance)

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
        olds = self.links_of(peer.name) + self._welcomed.get(peer.name, [])
        return [old for old in olds if not is_beside(peer, old)]

    def check_others(self, peer: Peer) -> None:
        """Check the links with other instances of a name, because there is no room for
        this one. A link that is dead gives its room up."""
        if self.addressable(peer):
            for old in self.links_of(peer.name):
                self._check_if_restarted(old, peer)

    async def admit_inbound(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Admit a further inbound link with this peer, or raise.

        Raises:
            DuplicateLink: another link with this instance stays.
        """
        if not self.addressable(peer):
            return
        awaited: set[PendingDial | InstanceDial] = set()
        while True:
            known = self.link_with(peer)
            if known is not None:
                if known.dialer:
                    self._check(known)
                    if not is_additional(protocol.peer_hello):
                        raise self.duplicate(peer)
                break
            dial = self.dials.get(peer.name)
            if dial is not None and not dial.hello_sent:
                dial.supersede()
                break
            if not self._wins_over(peer):
                break
            waits = [each for each in self._judged_by(peer) if each not in awaited]
            if not waits:
                break
            awaited.add(waits[0])
            await waits[0].attempt_over()
        self._welcomed.setdefault(peer.name, []).append(protocol)

    def _judged_by(self, peer: Peer) -> list[PendingDial | InstanceDial]:
        """Return the dials of this node that a peer may be judging."""
        found: list[PendingDial | InstanceDial] = []
        dial = self.dials.get(peer.name)
        if dial is not None and dial.hello_sent:
            found.append(dial)
        found += [each for each in self.instance_dials if each.may_reach(peer)]
        return found

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
            log.info(
                "a link from %s does not succeed the one it names",
                peer,
                extra=self._fields("succession_refused", protocol, peer),
            )
            return False
        protocol.succession.predecessor = old
        return True

    def admit_outbound(self, peer: Peer) -> None:
        """Admit a link that this node dialed, or raise.

        Raises:
            DuplicateLink: an inbound link with the peer came up meanwhile.
        """
        if self.link_with(peer) is not None:
            raise self.duplicate(peer)

    def duplicate(self, peer: Peer) -> DuplicateLink:
        """Return the error for a second link with one instance."""
        return DuplicateLink(
            "another link between the two instances stays",
            peer=peer,
            side=Side.LOCAL,
            hint="use the link that is up",
        )

    def _check(
        self, protocol: LinkProtocol, on_silent: Callable[[], object] | None = None
    ) -> None:
        """See `LinkProtocol.check`."""
        seconds = min(CHECK_SECONDS, protocol.settings.handshake_timeout / 3)
        protocol.check(seconds, on_silent)

    def _check_if_restarted(self, old: LinkProtocol, peer: Peer) -> None:
        """Find out whether an instance of a name runs, when another one connects."""
        if not is_beside(peer, old):
            return
        assert old.peer is not None
        if not peer.is_sibling_of(old.peer):
            self._check(old, partial(self._end_restarted, old))

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
        self._log_up(protocol, peer)
        succession = protocol.succession
        succession.on_asked = self.on_asked
        protocol.extensions.on_leaving = self.peer_leaves
        if not protocol.dialer and succession.ticket is not None:
            self._by_ticket[succession.ticket] = protocol
        predecessor = succession.predecessor
        if predecessor is not None and not self._succeed(predecessor, protocol):
            return
        if self.addressable(peer):
            if not self._outlasts_others(protocol, peer, predecessor):
                return
            self._name(protocol, peer, predecessor)
        if predecessor is not None and predecessor in self._told:
            # For callbacks it is the same link on a new connection.
            self._told.discard(predecessor)
        else:
            self.events.up(link)
        self._told.add(protocol)
        if self.on_late is not None:
            self.on_late(protocol)

    def _outlasts_others(
        self, protocol: LinkProtocol, peer: Peer, predecessor: LinkProtocol | None
    ) -> bool:
        """Settle which links of a node name stay, now that one has come up. Return
        whether this one does; otherwise it was ended."""
        for old in self.links_of(peer.name):
            if old is predecessor:
                continue
            if is_beside(peer, old):
                self._check_if_restarted(old, peer)
            elif self._stays(old, peer):
                # If the old link is dead, the next dial of the peer is admitted.
                self._check(old)
                self._end_loser(protocol)
                return False
            else:
                self._end_older(old, peer)
        return True

    def _name(
        self, protocol: LinkProtocol, peer: Peer, predecessor: LinkProtocol | None
    ) -> None:
        """Let new messages take a link. It becomes addressable if no other one is."""
        known = self._by_name.get(peer.name)
        # A link whose peer stops can be succeeded, and took nothing any more.
        gone = predecessor if predecessor in self.links_of(peer.name) else None
        if known is not None and known is not predecessor:
            self._others.setdefault(peer.name, {})[peer.instance] = protocol
        else:
            self._by_name[peer.name] = protocol
            assert protocol.link is not None
            for waiter in self._waiters.pop(peer.name, ()):
                if not waiter.done():
                    waiter.set_result(protocol.link)
            self._changed(peer.name)
        for watcher in self.watchers:
            watcher(protocol, True)
            if gone is not None:
                watcher(gone, False)

    def _unname(self, protocol: LinkProtocol, peer: Peer) -> None:
        """Let new messages take a link no more. If it was addressable, the link with
        the next instance takes its place."""
        others = self._others.get(peer.name, {})
        if self._by_name.get(peer.name) is protocol:
            if others:
                self._by_name[peer.name] = others.pop(next(iter(others)))
            else:
                del self._by_name[peer.name]
            self._changed(peer.name)
        elif others.get(peer.instance) is protocol:
            del others[peer.instance]
        else:
            return
        if not others:
            self._others.pop(peer.name, None)
        for watcher in self.watchers:
            watcher(protocol, False)

    def peer_leaves(self, protocol: LinkProtocol) -> None:
        """Register that a peer has said that it stops."""
        if protocol.link is None or protocol.link.closed:
            return
        log.info(
            "%s stops: new messages and calls take another link",
            protocol.peer,
            extra=self._fields("peer_leaves", protocol, protocol.peer),
        )
        self.turn_away(protocol)

    def turn_away(self, protocol: LinkProtocol) -> None:
        """Make a link unreachable because either side stops. It stays up."""
        peer = protocol.peer
        assert peer is not None
        if protocol in self.links_of(peer.name):
            self._unname(protocol, peer)
            self._leaving.setdefault(peer.name, []).append(protocol)

    def prefer(self, protocol: LinkProtocol) -> None:
        """Make a link addressable in place of the one with another instance."""
        peer = protocol.peer
        assert peer is not None
        others = self._others.get(peer.name, {})
        if others.get(peer.instance) is protocol:
            known = self._by_name[peer.name]
            assert known.peer is not None
            del others[peer.instance]
            others[known.peer.instance] = known
            self._by_name[peer.name] = protocol
            self._changed(peer.name)

    def _stays(self, old: LinkProtocol, peer: Peer) -> bool:
        """Whether an older link with the same instance stays, although an inbound one
        is up. Both came up at once, and the dial of this node wins."""
        return (
            old.dialer
            and is_same(peer, old)
            and is_as_good(old, peer)
            and self._wins_over(peer)
        )

    def _end_loser(self, protocol: LinkProtocol) -> None:
        text = "another link between the two instances stays"
        error = LinkClosed(text, peer=protocol.peer, side=Side.LOCAL)
        protocol.terminate(error, CloseReason.DUPLICATE_LINK, text)

    def _end_older(self, old: LinkProtocol, peer: Peer) -> None:
        """Replace a link, because a newer one with `peer` is up in its place."""
        text = "a newer link took the place of this one"
        if not is_same(peer, old):
            self._warn_of(
                old,
                f"{text}: the peer was not verified, and one that is uses its name",
                "give each of the two nodes a name of its own",
            )
        elif old.dialer:
            # Both sides have dialed at once, which is nobody's fault.
            log.info(
                "%s: both sides had dialed: %s",
                text,
                peer,
                extra=self._fields("dials_crossed", old, peer),
            )
        else:
            self._warn_of(
                old,
                f"{text}: the peer has lost it, and has connected again",
                "see whether a proxy, a firewall or NAT cuts idle connections",
            )
        self._replace(
            old, f"a newer link with {old.peer_text()} took the place of this one", text
        )

    def _end_restarted(self, old: LinkProtocol) -> None:
        """Replace a link that has not answered since another instance of its name has
        connected."""
        if old.state is State.CLOSED:
            return
        self._warn_of(
            old,
            "another instance of the node has connected and this one does not answer, "
            "so the node counts as restarted and the link is replaced",
            "nothing, if the node was restarted; if both instances run, see what "
            "blocks the event loop of this one, or use NodeOptions.group",
        )
        self._replace(
            old,
            f"{old.peer_text()} has connected as another instance, and this one does "
            "not answer",
            "another instance of the node has connected, and this one did not answer",
        )

    def _warn_of(self, old: LinkProtocol, what: str, remedy: str) -> None:
        """Log that a link is replaced, and what to do."""
        instance = old.peer.instance if old.peer is not None else ""
        self._limit.say(
            logging.WARNING,
            what,
            "the link with %s, instance %s: %s; what to do: %s",
            old.peer,
            instance,
            what,
            remedy,
            event="link_replaced",
            peer=old.peer,
            link=old.number,
            instance=instance,
        )

    def _replace(self, old: LinkProtocol, why: str, text: str) -> None:
        error = LinkLost(why, peer=old.peer, side=Side.LOCAL)
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
        was_up = self._up.pop(protocol, None) is not None
        if was_up and log.isEnabledFor(logging.INFO):
            error = protocol.error
            # The usual hint is to connect again, which an acceptor cannot do.
            usual = error is not None and error.hint == type(error).usual_hint
            log.info(
                "link down: %s",
                error.message if error is not None and usual else error,
                extra=self._fields("link_down", protocol, protocol.peer, error),
            )

    def _log_up(self, protocol: LinkProtocol, peer: Peer) -> None:
        # Many nodes do not log at INFO, and each link would pay for the fields.
        if log.isEnabledFor(logging.INFO):
            log.info("link up: %s", peer, extra=self._fields("link_up", protocol, peer))

    def _fields(
        self,
        event: str,
        protocol: LinkProtocol,
        peer: Peer | None,
        error: FastnodeError | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a log record about a link."""
        return fields(
            event, node=self._own, peer=peer, link=protocol.number, error=error
        )

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
        for known in (self._by_name, self._others, self._up, self._by_ticket):
            known.clear()
        self._all.clear()
        self._finishing.clear()
        self._leaving.clear()


def is_beside(peer: Peer, old: LinkProtocol) -> bool:
    """Whether a link with this peer comes up beside an older one and does not replace
    it."""
    return not is_same(peer, old) and is_as_good(old, peer)


def is_same(peer: Peer, old: LinkProtocol) -> bool:
    """Whether a peer is the instance at the other end of a link with its name."""
    return old.peer is not None and old.peer.instance == peer.instance


def is_as_good(old: LinkProtocol, peer: Peer) -> bool:
    """Whether the peer of a link is verified, if this peer is."""
    return old.peer is not None and (old.peer.verified or not peer.verified)


def older(protocol: LinkProtocol) -> list[LinkProtocol]:
    """Return the links that this one has succeeded and that have not ended yet."""
    found: list[LinkProtocol] = []
    before = protocol.succession.predecessor
    while before is not None:
        found.append(before)
        before = before.succession.predecessor
    return found
