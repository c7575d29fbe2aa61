"""Snapshot: collects what a node counts into one `NodeStats`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastnode.link.machine import State
from fastnode.link.stats import GAUGES
from fastnode.node.distribution import Distribution
from fastnode.node.stats import EndpointStats, NodeStats

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager
    from fastnode.dispatch.endpoint import EndpointRegistry
    from fastnode.dispatch.histogram import Histogram
    from fastnode.dispatch.lag import LoopLag
    from fastnode.node.acceptor import Acceptor
    from fastnode.node.context import NodeContext
    from fastnode.node.links import LinkRegistry

__all__ = ["Rotations", "Snapshot"]


class Rotations:
    """Counts how often certificates and trust were replaced while a node used them.

    A manager counts for itself, and several nodes may use it. So what it had counted
    before this node used it is left out.
    """

    def __init__(self) -> None:
        # The counts of each manager when this node began to use it.
        self._before: dict[CertManager, tuple[int, int]] = {}
        # The counts of managers that are not used any more.
        self._done = (0, 0)

    def add(self, manager: CertManager) -> None:
        """Count what this manager replaces from now on."""
        self._before.setdefault(manager, (manager.rotations, manager.failed_rotations))

    def counted(self, used: Iterable[CertManager]) -> tuple[int, int]:
        """Return how many rotations there were, and how many failed.

        Args:
            used: the managers that the node uses now. The others are forgotten.
        """
        rotations, failed = self._done
        used = set(used)
        for manager, before in list(self._before.items()):
            now = manager.rotations, manager.failed_rotations
            rotations += now[0] - before[0]
            failed += now[1] - before[1]
            if manager not in used:
                del self._before[manager]
                self._done = (
                    self._done[0] + now[0] - before[0],
                    self._done[1] + now[1] - before[1],
                )
        return rotations, failed


class Snapshot:
    """Takes snapshots of one node.

    Args:
        context: what the links of the node share.
        endpoints: the endpoints of the node.
        lag: measures the event loop.
        managers: returns the cert managers that the node uses now.
    """

    def __init__(
        self,
        context: NodeContext,
        endpoints: EndpointRegistry,
        lag: LoopLag,
        managers: Callable[[], Iterable[CertManager | None]],
    ) -> None:
        self._context = context
        self._endpoints = endpoints
        self._lag = lag
        self._managers = managers
        self.rotations = Rotations()

    def take(self, acceptors: Sequence[Acceptor]) -> NodeStats:
        """Return the stats of this moment.

        Args:
            acceptors: of the node.
        """
        dials = self._context.dial_stats
        counters = self._endpoints.counters
        managers = {each for each in self._managers() if each is not None}
        rotations, failed_rotations = self.rotations.counted(managers)
        now = datetime.now(UTC)
        return NodeStats(
            links_dialed=dials.links,
            links_accepted=sum(each.stats.links for each in acceptors),
            connections_accepted=sum(each.stats.connections for each in acceptors),
            dials_refused=dict(dials.refused),
            dials_failed=dict(dials.failed),
            dials_unreached=dict(self._context.unreached),
            accepts_refused=_added(each.stats.refused for each in acceptors),
            accepts_failed=_added(each.stats.failed for each in acceptors),
            handshake_seconds=distribution(counters.handshakes),
            calls_timed_out=counters.calls_timed_out,
            call_seconds=distribution(counters.calls),
            call_errors=counters.call_errors.shown(),
            reply_errors=counters.reply_errors.shown(),
            queued_bytes=self._context.settings.budget.used,
            loop_lag_seconds=distribution(self._lag.times),
            loop_late_seconds=self._lag.seconds,
            rotations=rotations,
            failed_rotations=failed_rotations,
            certificate_seconds_left=_seconds_left(
                now, (each.expires_at for each in managers)
            ),
            authority_seconds_left=_seconds_left(now, _authorities(managers)),
            endpoints=endpoint_stats(self._endpoints),
            **link_stats(self._context.links),
        )


def link_stats(registry: LinkRegistry) -> dict[str, Any]:
    """Return the fields of `NodeStats` that are about links."""
    links = list(registry)
    states = Counter(link.state for link in links)
    # Nothing is sent or received before a link is up.
    gauges = [link.gauges() for link in links if link.state >= State.UP]
    sums = map(sum, zip(*gauges, strict=True)) if gauges else [0] * len(GAUGES)
    return {
        "links": {state.name.lower(): states[state] for state in State},
        **registry.totals.with_links(links),
        **dict(zip(GAUGES, sums, strict=True)),
    }


def endpoint_stats(registry: EndpointRegistry) -> dict[str, EndpointStats]:
    """Return the stats of the endpoints, by name."""
    return {
        name: EndpointStats(
            **counters.shown(),
            running=running,
            waiting=waiting,
            seconds=distribution(counters.seconds),
        )
        for name, (counters, running, waiting) in registry.counted().items()
    }


def distribution(histogram: Histogram) -> Distribution:
    """Return what a histogram shows at this moment."""
    return Distribution.of(histogram.buckets(), histogram.seconds)


def _added(counts: Iterable[Counter[str]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return dict(found)


def _authorities(managers: Iterable[CertManager]) -> Iterable[datetime | None]:
    for manager in managers:
        for pool in (manager.client_cas, manager.root_cas):
            yield None if pool is None else pool.expires_at


def _seconds_left(now: datetime, ends: Iterable[datetime | None]) -> float | None:
    known = [end for end in ends if end is not None]
    return (min(known) - now).total_seconds() if known else None
