"""What a service tells about itself: its instances, its counters, results of a
broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError
    from fastnode.peer import Address

__all__ = [
    "BroadcastResult",
    "InstanceState",
    "InstanceStatus",
    "Policy",
    "ServiceStats",
]

#: What an instance of a service does at the moment, as seen from here.
#:
#: - "connecting": a dial is under way, or waits for its turn
#: - "ready": it gets calls
#: - "busy": it has refused a call because of load, and is passed over for a moment
#: - "ejected": it has failed too often, and gets no calls for some time
#: - "leaving": it stops, and gets calls only if there is no other instance
#: - "down": the last dial failed, or the link ended; it is dialed again after a pause
InstanceState: TypeAlias = Literal[
    "connecting", "ready", "busy", "ejected", "leaving", "down"
]


#: How a service chooses an instance, see docs/services.md.
Policy: TypeAlias = Literal["least_outstanding", "round_robin", "weighted"]


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One instance of a service, or one target that no instance has answered yet.

    Attributes:
        address: host and port of its target.
        name: its node name; None before it has answered.
        instance: its instance id; None before it has answered.
        state: what it does, see `InstanceState`.
        weight: of its target, 100 is usual.
        outstanding: calls under way to it.
        calls: attempts that were sent to it, over all its links.
        failures: those of them that failed by its fault.
        last_error: of the last attempt or dial that failed; None if none has.
    """

    address: Address
    name: str | None
    instance: str | None
    state: InstanceState
    weight: int = 100
    outstanding: int = 0
    calls: int = 0
    failures: int = 0
    last_error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What one instance did with a broadcast.

    Attributes:
        instance: the instance, as it was when the broadcast began.
        reply: what its handler returned; None if it failed.
        error: why there is no reply; None if there is one.
    """

    instance: InstanceStatus
    reply: bytes | None = None
    error: FastnodeError | None = None


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """Totals of a service. They never go back.

    Attributes:
        calls: calls, requests and confirmed messages. Retries do not count again.
        messages: one-way messages without confirmation.
        failures: those of `calls` that ended with an error.
        retries: attempts after the first one, without hedges.
        hedges: second attempts that were begun because the first one took long.
        budget_exhausted: retries and hedges that the budget did not allow.
        ejections: how often an instance was left out because it failed too often.
        dials: dials of targets.
        dials_failed: those of them that gave no link.
    """

    calls: int
    messages: int
    failures: int
    retries: int
    hedges: int
    budget_exhausted: int
    ejections: int
    dials: int
    dials_failed: int
