"""DnsClient: one question to the name servers, one answer. The only user of dnspython.

dnspython was chosen over aiodns. It is pure Python, so it needs no C library; it gives
the TTL of negative answers too; it takes ports of name servers; and it works on every
event loop. aiodns is faster, which does not matter for some questions a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fastnode.discovery.failure import DiscoveryError
from fastnode.errors import ConfigError

if TYPE_CHECKING:
    import dns.message
    import dns.resolver

__all__ = ["Answer", "DnsClient", "Kind", "Srv"]

#: The types of records that are asked for.
Kind: TypeAlias = Literal["A", "AAAA", "SRV"]
#: Questions of one client that are under way at the same time.
MAX_QUESTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record.

    Attributes:
        priority: the lowest number is used first.
        weight: the share of the host among those of its priority.
        port: where the host listens.
        host: a DNS name with a dot at its end.
    """

    priority: int
    weight: int
    port: int
    host: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the name servers say. An answer without records is an answer.

    Attributes:
        ttl: seconds for which the answer holds.
        addresses: of A and AAAA records.
        services: of SRV records.
        extra: addresses that came along with SRV records, by their hosts.
    """

    ttl: float
    addresses: tuple[str, ...] = ()
    services: tuple[Srv, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class DnsClient:
    """Asks name servers.

    Args:
        nameservers: addresses and ports; None: those of ``/etc/resolv.conf``, which is
            read again for each watch and after each failure.
        search: domains to search; None: as for `nameservers`.
        timeout: seconds for one question to all name servers together.

    Raises:
        ConfigError: dnspython is not installed.
    """

    def __init__(
        self,
        nameservers: Sequence[tuple[str, int]] | None,
        search: Sequence[str] | None,
        timeout: float,
    ) -> None:
        try:
            import dns.asyncresolver  # noqa: F401, PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(
                f"DnsDiscovery needs dnspython: {error}",
                hint="pip install 'fastnode[dns]'",
            ) from error
        self._nameservers = nameservers
        self._search = search
        self._timeout = timeout
        self._turns = asyncio.Semaphore(MAX_QUESTIONS)
        self._resolver: Any = None

    async def ask(self, name: str, kind: Kind) -> Answer:
        """Ask for the records of a name.

        Args:
            name: a DNS name. Without a dot at its end, domains are searched.
            kind: the type of the records.

        Raises:
            DiscoveryError: there was no answer.
        """
        import dns.exception  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        async with self._turns:
            try:
                if self._resolver is None:
                    self._resolver = self._make_resolver()
                answer: dns.resolver.Answer = await self._resolver.resolve(
                    name, kind, raise_on_no_answer=False, search=True
                )
                return _answer(answer.response)
            except dns.resolver.NXDOMAIN as nothing:
                # Several names may have been searched.
                untyped: Any = nothing
                responses = untyped.responses().values()
                ttls = [each.resolve_chaining().minimum_ttl for each in responses]
                return Answer(min(ttls, default=0))
            except (dns.exception.DNSException, OSError) as error:
                self._resolver = None
                # The text of the library ends in a list of all attempts.
                raise DiscoveryError(
                    f"no answer for {kind} of {name}: {str(error)[:300]}"
                ) from error

    def _make_resolver(self) -> Any:
        import dns.asyncresolver  # noqa: PLC0415
        import dns.name  # noqa: PLC0415
        import dns.nameserver  # noqa: PLC0415

        resolver = dns.asyncresolver.Resolver(configure=self._nameservers is None)
        resolver.lifetime = self._timeout
        # Half of the time, so that a second name server has its turn.
        resolver.timeout = self._timeout / 2
        if self._nameservers is not None:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(host, port)
                for host, port in self._nameservers
            ]
        if self._search is not None:
            resolver.domain = dns.name.root
            resolver.search = [dns.name.from_text(each) for each in self._search]
        return resolver


def _answer(response: dns.message.QueryMessage) -> Answer:
    found = response.resolve_chaining()
    addresses: list[str] = []
    services: list[Srv] = []
    for record in found.answer or ():
        if record.rdtype.name == "SRV":
            host = record.target.to_text().lower()
            priority, weight = record.priority, record.weight
            services.append(Srv(priority, weight, record.port, host))
        else:
            addresses.append(record.address)
    extra: dict[str, tuple[str, ...]] = {}
    ttl = found.minimum_ttl
    if services:
        for records in response.additional:
            if records.rdtype.name in ("A", "AAAA"):
                host = records.name.to_text().lower()
                more = tuple(record.address for record in records)
                extra[host] = extra.get(host, ()) + more
                ttl = min(ttl, records.ttl)
    return Answer(ttl, tuple(addresses), tuple(services), extra)
