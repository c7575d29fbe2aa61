"""Target: one address where an instance of a service listens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastnode.errors import ConfigError
from fastnode.names import check_address, normal_host

__all__ = ["Target", "normal_targets"]

#: The weight of a target that nobody gave a weight.
DEFAULT_WEIGHT: Final = 100
#: The weights of SRV records have 16 bits.
MAX_WEIGHT: Final = 65535


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """An address where an instance of a service listens.

    Targets are compared and sorted by host, port and weight. They say where to dial,
    and never what to verify: each peer has to prove that it belongs to the service.

    Args:
        host: a DNS name or an IP address. It is brought to one form: lower case,
            without a trailing dot, IPv6 without brackets.
        port: 1 to 65535.
        weight: the share of this target compared with the others, 0 to 65535. A target
            with weight 0 gets work only if all others have weight 0 too.

    Raises:
        ConfigError: an argument cannot work.
    """

    host: str
    port: int
    weight: int = DEFAULT_WEIGHT

    def __post_init__(self) -> None:
        host, _ = check_address((self.host, self.port))
        object.__setattr__(self, "host", normal_host(host))
        weight = self.weight
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int)
            or not 0 <= weight <= MAX_WEIGHT
        ):
            raise ConfigError(
                f"Target.weight is {weight!r}",
                hint=f"a weight is a whole number, 0 to {MAX_WEIGHT}",
            )


def normal_targets(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return a set of targets in the form in which sets are compared.

    The targets are sorted. Of several targets with one address the heaviest one counts.

    Raises:
        ConfigError: an item is not a `Target`.
    """
    found: dict[tuple[str, int], Target] = {}
    for target in targets:
        if not isinstance(target, Target):
            raise ConfigError(
                f"{target!r} is not a Target", hint="write Target(host, port)"
            )
        known = found.get((target.host, target.port))
        if known is None or known.weight < target.weight:
            found[target.host, target.port] = target
    return tuple(sorted(found.values()))
