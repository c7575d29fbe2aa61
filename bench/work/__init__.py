"""The workloads."""

from __future__ import annotations

from collections.abc import Callable

from work.half_load import half_load
from work.handshakes import handshakes
from work.import_time import import_time
from work.memory import memory
from work.traffic import calls, fan_in, one_way
from work.work import Pace, Work

__all__ = ["GROUPS", "Pace", "Work"]

#: By the name that the command line knows.
GROUPS: dict[str, Callable[[Pace], list[Work]]] = {
    "one-way": one_way,
    "call": calls,
    "fan-in": fan_in,
    "handshakes": handshakes,
    "half-load": half_load,
    "memory": memory,
    "import": import_time,
}
