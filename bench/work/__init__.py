"""The workloads."""

from __future__ import annotations

from collections.abc import Callable

from work import half_load, handshakes, import_time, memory, traffic
from work.work import Pace, Work

__all__ = ["GROUPS", "Pace", "Work"]

#: By the name that the command line knows.
GROUPS: dict[str, Callable[[Pace], list[Work]]] = {
    "one-way": traffic.one_way,
    "call": traffic.calls,
    "metadata": traffic.calls_with_metadata,
    "fan-in": traffic.fan_in,
    "handshakes": handshakes.works,
    "half-load": half_load.works,
    "memory": memory.works,
    "import": import_time.works,
}
