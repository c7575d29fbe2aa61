"""Renewing links: a new handshake for each link that shows an old certificate, or is
old itself.

How it works. A link keeps the certificate with which its handshake began. A `Renewal`
remembers for each link which manager made it, and which certificate the link shows. A
link becomes due

- after `CertManager.update`, if its certificate is no longer the one of its manager
  (``renew_links="reconnect"``). The same check is made when a link comes up, because
  the certificate may have been replaced during the handshake;
- before it reaches ``max_link_age``.

Each link that is due gets a timer of its own with a random delay. So nodes that get new
certificates at the same time do not all dial at the same time. A timer that ends puts
its link into a queue, and one task replaces the links of the queue, one by one. It
replaces a link as `Node.reconnect` does (`fastnode.node.succession`), so nothing is
lost. It does not wait for the old link to end, because calls may be under way there for
hours.

If a link cannot be replaced, it stays up and gets a timer again, with backoff. A link
that has ended needs nothing: the next link between the two nodes has a handshake of its
own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random as random_numbers
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from fastnode.backoff import Backoff
from fastnode.dispatch.user_code import is_cancelled
from fastnode.errors import CallTimeout, FastnodeError
from fastnode.limits import (
    RENEWAL_AGE_LEAST,
    RENEWAL_AGE_MOST,
    RENEWAL_PAUSE_SECONDS,
    RENEWAL_SPREAD_SECONDS,
    RENEWAL_TIMEOUT_SECONDS,
)
from fastnode.link.machine import State
from fastnode.loggers import fields
from fastnode.node.keeper import needs_somebody

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate
    from fastnode.certs.manager import CertManager
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.options import NodeOptions

__all__ = ["Renewal", "RenewalStats"]

log = logging.getLogger("fastnode.node")


@dataclass(slots=True)
class RenewalStats:
    """Counts of the links that a node has renewed by itself.

    Attributes:
        renewed: links that a new link has replaced.
        failed: attempts that came to nothing. The link stays, and a later attempt
            follows.
    """

    renewed: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class Followed:
    """A link that may have to be renewed.

    Attributes:
        protocol: the link.
        manager: the cert manager that made its `SSLContext`; None in plaintext.
        shown: the certificate that the link shows to its peer.
        backoff: the pauses between attempts.
        old_at: when it will have nearly reached its age, in the time of the loop.
        aged: whether it has.
        timer: when it is due.
        failure: why the last attempt failed.
    """

    protocol: LinkProtocol
    manager: CertManager | None
    shown: Certificate | None
    backoff: Backoff
    old_at: float = math.inf
    aged: bool = False
    timer: asyncio.TimerHandle | None = None
    failure: type[Exception] | None = None

    @property
    def outdated(self) -> bool:
        """Whether its manager has another certificate by now."""
        return self.manager is not None and self.manager.certificate != self.shown

    @property
    def up(self) -> bool:
        """Whether it is in use: neither side stops, and no newer link has its place."""
        protocol = self.protocol
        return (
            protocol.state is State.UP
            and not protocol.extensions.leaving
            and protocol.succession.successor is None
        )

    @property
    def can_be_replaced(self) -> bool:
        """Whether its peer can hand it over. Peers of older versions cannot."""
        return self.protocol.succession.agreed

    def stop_timer(self) -> None:
        """Make it due at no time."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Renewal:
    """Renews the links of one node, in the background.

    Args:
        node: the name of the node, for the log.
        renew: replaces a link, and returns its successor when that is up.
        certificates: whether links are renewed after `CertManager.update`.
        max_age: seconds that links may be up; None: any time.
        random: returns numbers from 0 to 1.
    """

    def __init__(
        self,
        node: str,
        renew: Callable[[LinkProtocol], Awaitable[LinkProtocol]],
        *,
        certificates: bool,
        max_age: float | None,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self.stats = RenewalStats()
        self._node = node
        self._renew = renew
        self._certificates = certificates
        self._max_age = max_age
        self._random = random
        self._links: dict[LinkProtocol, Followed] = {}
        # How many links of each manager are followed.
        self._watched: dict[CertManager, int] = {}
        self._due: deque[Followed] = deque()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._stopped = False

    @classmethod
    def of(
        cls,
        node: str,
        options: NodeOptions,
        renew: Callable[[LinkProtocol], Awaitable[LinkProtocol]],
    ) -> Self | None:
        """Return what renews the links of a node; None if its options want no
        renewal."""
        reconnects = options.renew_links == "reconnect"
        certificates = reconnects and not options.network.plaintext
        if not certificates and options.max_link_age is None:
            return None
        age = options.max_link_age
        return cls(node, renew, certificates=certificates, max_age=age)

    # --- which links ----------------------------------------------------------------

    def follow(
        self,
        protocol: LinkProtocol,
        manager: CertManager | None,
        shown: Certificate | None,
    ) -> None:
        """Renew this link when it is due, once it is up and as long as it is.

        Args:
            protocol: a connection whose handshake has not begun.
            manager: the cert manager that made its context; None in plaintext.
            shown: the certificate of the manager before it made the context. A newer
                one costs a handshake too many, and an older one would hide an update.
        """
        if not self._stopped:
            self._loop, self._process = asyncio.get_running_loop(), os.getpid()
            manager = manager if self._certificates else None
            link = Followed(protocol, manager, shown, Backoff())
            protocol.established.add_done_callback(partial(self._came_up, link))

    def _came_up(self, link: Followed, established: asyncio.Future[Link]) -> None:
        failed = established.cancelled() or established.exception() is not None
        if failed or self._stopped:
            return
        self._links[link.protocol] = link
        link.protocol.gone.add_done_callback(partial(self._forget, link))
        if link.manager is not None:
            known = self._watched.get(link.manager, 0)
            self._watched[link.manager] = known + 1
            if not known:
                link.manager.watch_certificate(self._on_update)
        if self._max_age is not None:
            assert self._loop is not None
            part = RENEWAL_AGE_MOST - RENEWAL_AGE_LEAST
            part = RENEWAL_AGE_LEAST + part * self._random()
            link.old_at = self._loop.time() + part * self._max_age
        if link.outdated:
            self._plan([link])
        else:
            self._wait_for_age(link)

    def _forget(self, link: Followed, _gone: object) -> None:
        link.stop_timer()
        if self._links.pop(link.protocol, None) is None or link.manager is None:
            return
        self._watched[link.manager] -= 1
        if not self._watched[link.manager]:
            del self._watched[link.manager]
            link.manager.unwatch_certificate(self._on_update)

    # --- when -----------------------------------------------------------------------

    def _on_update(self, manager: CertManager) -> None:
        """A manager has a new certificate. Called in any thread, and in forked
        processes too, where this node does not run."""
        if self._process == os.getpid() and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._updated, manager)

    def _updated(self, manager: CertManager) -> None:
        if not self._stopped:
            links = self._links.values()
            self._plan([each for each in links if each.manager is manager])

    def _plan(self, links: Iterable[Followed]) -> None:
        """Make the links due that show an old certificate, at random times."""
        due = [each for each in links if each.up and each.outdated]
        if not due:
            return
        # A few links are renewed within seconds. Many links share a minute.
        window = min(len(due) * RENEWAL_PAUSE_SECONDS, RENEWAL_SPREAD_SECONDS)
        log.info(
            "%s: the certificate was replaced: %d links are renewed, from now on until "
            "%.3g s from now",
            self._node,
            len(due),
            window,
            extra=fields("renewal_planned", node=self._node, links=len(due)),
        )
        for link in due:
            self._set_timer(link, window * self._random())

    def _wait_for_age(self, link: Followed) -> None:
        """Make a link due when it has nearly reached its age."""
        if link.old_at < math.inf:
            assert self._loop is not None
            self._set_timer(link, link.old_at - self._loop.time())

    def _set_timer(self, link: Followed, delay: float) -> None:
        assert self._loop is not None
        link.stop_timer()
        link.timer = self._loop.call_later(delay, self._is_due, link)

    def _is_due(self, link: Followed) -> None:
        assert self._loop is not None
        link.timer = None
        link.aged = self._loop.time() >= link.old_at
        if not (link.aged or link.outdated):
            # The old certificate is in use again.
            self._wait_for_age(link)
            return
        self._due.append(link)
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    # --- renewing -------------------------------------------------------------------

    async def _work(self) -> None:
        """Renew the links that are due, one by one."""
        try:
            while self._due:
                link = self._due.popleft()
                if link.up:
                    await self._try(link)
        finally:
            self._task = None

    async def _try(self, link: Followed) -> None:
        old = link.protocol
        new = None
        try:
            async with asyncio.timeout(RENEWAL_TIMEOUT_SECONDS) as scope:
                new = await self._renew(old)
        except BaseException as error:
            if is_cancelled(error) or not isinstance(error, Exception):
                raise  # this node stops
            if isinstance(error, TimeoutError) and scope.expired():
                error = out_of_time(old)
            self._failed(link, error)
            return
        self.stats.renewed += 1
        log.info(
            "link renewed: %s",
            new.peer,
            extra=fields(
                "link_renewed",
                node=self._node,
                peer=new.peer,
                link=new.number,
                replaced=old.number,
            ),
        )

    def _failed(self, link: Followed, error: Exception) -> None:
        """Try again later, if there is still something to renew."""
        if isinstance(error, FastnodeError):
            if not link.up:
                return
            level = logging.DEBUG if type(error) is link.failure else logging.WARNING
            traceback = None
            if needs_somebody(error):
                link.backoff.give_time()
        else:
            level, traceback = logging.ERROR, error
            link.backoff.give_time()
        self.stats.failed += 1
        link.failure = type(error)
        again = "not trying again"
        if link.up and link.can_be_replaced:
            again = f"trying again within {link.backoff.ceiling:g} s"
            self._set_timer(link, link.backoff.pause())
        old = link.protocol
        log.log(
            level,
            "the link with %s cannot be renewed, and stays up; %s: %s",
            old.peer_text(),
            again,
            error,
            exc_info=traceback,
            extra=fields(
                "link_not_renewed",
                node=self._node,
                peer=old.peer,
                link=old.number,
                error=error,
            ),
        )

    def stop(self) -> None:
        """Renew nothing any more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        for link in self._links.values():
            link.stop_timer()
        for manager in self._watched:
            manager.unwatch_certificate(self._on_update)
        self._links.clear()
        self._watched.clear()
        self._due.clear()


def out_of_time(old: LinkProtocol) -> CallTimeout:
    """Return the error for a new link that did not come up in time."""
    return CallTimeout(
        f"no new link came up within {RENEWAL_TIMEOUT_SECONDS:g} s",
        timeout=RENEWAL_TIMEOUT_SECONDS,
        peer=old.peer,
        hint="is the peer overloaded?",
        begun="no",
    )
