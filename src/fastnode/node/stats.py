"""NodeStats: the totals of a node, as a snapshot.

Each field says in its metadata which of two kinds it is. A total never goes back while
a node lives, and the totals of several nodes can be added. A gauge says how things are
at this moment, and means nothing when the node has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, TypeVar

from fastnode.node.distribution import Distribution
from fastnode.sending.codes import OTHER

__all__ = ["EndpointStats", "NodeStats", "decoded", "encoded", "is_total", "summed"]

KIND: Final = "kind"
TOTAL: Final = "total"
GAUGE: Final = "gauge"
#: A gauge whose sum over several nodes is the largest, or the smallest, of its values.
MOST: Final = "most"
LEAST: Final = "least"

AS_TOTAL: Final = {KIND: TOTAL}

Stats = TypeVar("Stats", "NodeStats", "EndpointStats")


def total(default: Any = 0) -> Any:
    """A field that never goes back.

    Args:
        default: the value, or the class of the empty value.
    """
    return _field(default, TOTAL)


def gauge(default: Any = 0, kind: str = GAUGE) -> Any:
    """A field that says how things are at this moment; `default` as for `total`."""
    return _field(default, kind)


def _field(default: Any, kind: str) -> Any:
    metadata = {KIND: kind}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """What a node counts of one endpoint.

    Attributes:
        messages: one-way messages whose handler has begun.
        calls: calls whose handler has begun.
        errors: messages, calls and batches whose handler raised, or returned what is no
            reply. A `CallError` is an answer, and does not count.
        calls_refused: calls and confirmed messages that were refused with `Busy`.
        calls_expired: calls and confirmed messages whose time was over before their
            handler began.
        running: asynchronous handlers that are under way now.
        waiting: messages and calls that wait now for `concurrency`.
        seconds: how long handlers took. Every asynchronous handler is timed, and one of
            64 plain ones. A batch counts as one.
    """

    messages: int = total()
    calls: int = total()
    errors: int = total()
    calls_refused: int = total()
    calls_expired: int = total()
    running: int = gauge()
    waiting: int = gauge()
    seconds: Distribution = field(default_factory=Distribution, metadata=AS_TOTAL)


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What a node did since it was made, over all links that it ever had.

    Totals never go back, also when links are renewed, lost or closed. The other fields
    say how things are at this moment.

    Attributes:
        links: connections now, by their state: "tls", "hello", "deciding" and
            "accepted" while a handshake is under way, "up", "retiring" while a newer
            link takes over, "closing", and "closed" while the socket still exists.
        links_dialed: links that this node dialed and that came up.
        links_accepted: links that peers dialed and that came up.
        connections_accepted: TCP connections that the acceptors took.
        dials_refused: dialed connections that this node refused, by the name of the
            error.
        dials_failed: dialed connections that the peer refused or broke off, by the name
            of the error.
        dials_unreached: attempts to dial an address where nobody was reached, by the
            name of the error.
        accepts_refused: accepted connections that this node refused, by the name of the
            error.
        accepts_failed: accepted connections that the peer refused or broke off, by the
            name of the error.
        handshake_seconds: from a TCP connection to the link that is up.
        messages_sent, messages_received: one-way messages.
        calls_sent, calls_received: calls.
        bytes_sent, bytes_received: on the wire, as TLS made them.
        unhandled_messages: one-way messages received for endpoints without handler.
        handler_errors: messages, calls and batches whose handler raised, or returned
            what is no reply.
        messages_dropped_by_peer: one-way messages sent to endpoints that the peer does
            not have, as far as the peer has said so.
        calls_expired: calls and confirmed messages received whose time was over before
            their handler began.
        calls_expired_at_peer: the same of those sent, as far as the peer has said so.
        calls_refused: calls and confirmed messages of peers that were refused with
            `Busy`.
        calls_timed_out: calls and confirmed messages of this node that raised
            `CallTimeout`.
        calls_under_way: calls and confirmed messages of this node that wait for their
            reply now.
        calls_unanswered: calls of peers that this node has to answer now.
        handlers_running: asynchronous handlers that are under way now.
        call_seconds: from a call or confirmed message of this node to its reply. Failed
            calls are not among them.
        call_errors: calls and confirmed messages of this node that failed, by code.
        reply_errors: calls and confirmed messages of peers that this node answered with
            an error, by the code that the caller gets.
        queued_bytes: bytes that wait now to be sent, before TLS.
        windows_filled: how often a receive window came to its limit: this node granted
            the peer no more, because handlers had not finished.
        windows_full: receive windows that are at their limit now.
        links_without_credit: links now with bytes to send, whose peer takes no more.
        loop_lag_seconds: how late the event loop was, measured every 0.25 s, or more
            often with `shed_above`.
        loop_late_seconds: how late the event loop is now, or was when it was last
            measured.
        rotations: how often certificate or trust were replaced while this node used
            them.
        failed_rotations: how often new certificates or trust were not taken.
        certificate_seconds_left: until the first certificate expires that this node
            shows; below 0: it has expired; None: there is none.
        authority_seconds_left: until the first authority expires that this node trusts;
            below 0: it has expired; None: there is none, or only the system's.
        endpoints: the same for each endpoint, by name. The first 100 endpoints have
            entries of their own. The entry "other" has the others, and names that peers
            made up.
    """

    links: Mapping[str, int] = gauge(dict)
    links_dialed: int = total()
    links_accepted: int = total()
    connections_accepted: int = total()
    dials_refused: Mapping[str, int] = total(dict)
    dials_failed: Mapping[str, int] = total(dict)
    dials_unreached: Mapping[str, int] = total(dict)
    accepts_refused: Mapping[str, int] = total(dict)
    accepts_failed: Mapping[str, int] = total(dict)
    handshake_seconds: Distribution = field(
        default_factory=Distribution, metadata=AS_TOTAL
    )
    messages_sent: int = total()
    messages_received: int = total()
    calls_sent: int = total()
    calls_received: int = total()
    bytes_sent: int = total()
    bytes_received: int = total()
    unhandled_messages: int = total()
    handler_errors: int = total()
    messages_dropped_by_peer: int = total()
    calls_expired: int = total()
    calls_expired_at_peer: int = total()
    calls_refused: int = total()
    calls_timed_out: int = total()
    calls_under_way: int = gauge()
    calls_unanswered: int = gauge()
    handlers_running: int = gauge()
    call_seconds: Distribution = field(default_factory=Distribution, metadata=AS_TOTAL)
    call_errors: Mapping[str, int] = total(dict)
    reply_errors: Mapping[str, int] = total(dict)
    queued_bytes: int = gauge()
    windows_filled: int = total()
    windows_full: int = gauge()
    links_without_credit: int = gauge()
    loop_lag_seconds: Distribution = field(
        default_factory=Distribution, metadata=AS_TOTAL
    )
    loop_late_seconds: float = gauge(0.0, MOST)
    rotations: int = total()
    failed_rotations: int = total()
    certificate_seconds_left: float | None = gauge(None, LEAST)
    authority_seconds_left: float | None = gauge(None, LEAST)
    endpoints: Mapping[str, EndpointStats] = total(dict)

    def without_gauges(self) -> NodeStats:
        """Return the totals alone, as for a node that has ended."""
        return replace(
            _ended(self),
            endpoints={name: _ended(each) for name, each in self.endpoints.items()},
        )


def is_total(of: type[NodeStats | EndpointStats], name: str) -> bool:
    """Whether a field is a total."""
    kinds: dict[str, str] = {each.name: each.metadata[KIND] for each in fields(of)}
    return kinds[name] == TOTAL


def _ended(stats: Stats) -> Stats:
    kept = {
        each.name: getattr(stats, each.name)
        for each in fields(stats)
        if each.metadata[KIND] == TOTAL
    }
    return type(stats)(**kept)


# --- adding -------------------------------------------------------------------------


def summed(parts: Iterable[NodeStats], names: Iterable[str] | None = None) -> NodeStats:
    """Add the stats of several nodes.

    Args:
        parts: of each node.
        names: the endpoints that have entries of their own; the others count as
            "other". None: all have.
    """
    parts = list(parts)
    if names is not None:
        known = set(names)
        parts = [_under_other(each, known) for each in parts]
    return _sum(NodeStats, parts)


def _under_other(stats: NodeStats, known: set[str]) -> NodeStats:
    unknown = stats.endpoints.keys() - known - {OTHER}
    if not unknown:
        return stats
    kept = {n: each for n, each in stats.endpoints.items() if n not in unknown}
    others = [stats.endpoints[name] for name in unknown]
    if OTHER in kept:
        others.append(kept[OTHER])
    kept[OTHER] = _sum(EndpointStats, others)
    return replace(stats, endpoints=kept)


def _sum(of: type[Stats], parts: list[Stats]) -> Stats:
    values = {
        each.name: [getattr(part, each.name) for part in parts] for each in fields(of)
    }
    kinds = {each.name: each.metadata[KIND] for each in fields(of)}
    return of(**{n: _sum_of(kinds[n], found) for n, found in values.items() if found})


def _sum_of(kind: str, values: list[Any]) -> Any:
    if kind in (MOST, LEAST):
        known = [value for value in values if value is not None]
        return (max if kind == MOST else min)(known, default=None)
    first = values[0]
    if isinstance(first, Distribution):
        return Distribution.sum_of(values)
    if not isinstance(first, Mapping):
        return sum(values)
    found: dict[str, list[Any]] = {}
    for value in values:
        for name, each in value.items():
            found.setdefault(name, []).append(each)
    return {name: _sum_of_entries(entries) for name, entries in found.items()}


def _sum_of_entries(entries: list[Any]) -> Any:
    if isinstance(entries[0], EndpointStats):
        return _sum(EndpointStats, entries)
    return sum(entries)


# --- as plain data ------------------------------------------------------------------


def encoded(stats: NodeStats) -> dict[str, Any]:
    """Return stats as what JSON can say. `decoded` is the inverse."""
    return asdict(stats)


def decoded(data: Mapping[str, Any]) -> NodeStats:
    """Return the stats that `encoded` has made plain, also after a way through JSON."""
    endpoints = {
        name: EndpointStats(**_with_distributions(EndpointStats, each))
        for name, each in data["endpoints"].items()
    }
    return NodeStats(**{**_with_distributions(NodeStats, data), "endpoints": endpoints})


def _with_distributions(of: type[Stats], data: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(data)
    for each in fields(of):
        if each.default_factory is Distribution:
            buckets = [tuple(bucket) for bucket in data[each.name]["buckets"]]
            found[each.name] = Distribution.of(buckets, data[each.name]["seconds"])
    return found
