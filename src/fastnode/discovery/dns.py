"""DnsDiscovery: services whose targets are in the DNS.

How it works. A watch asks for the records of a service, publishes them, waits for their
TTL, and asks again. An answer without records, or that a name does not exist, is an
answer: the service has no instances. If no name server answers, nothing is published,
and the last targets stay valid.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from fastnode.discovery.dns_client import Answer, DnsClient, Kind, Srv
from fastnode.discovery.failure import DiscoveryError
from fastnode.discovery.target import DEFAULT_WEIGHT, Target
from fastnode.discovery.watch import Publish, Watch
from fastnode.errors import ConfigError
from fastnode.limits import (
    DEFAULT_PORT,
    DNS_LEAST_TTL_SECONDS,
    DNS_MOST_EMPTY_TTL_SECONDS,
    DNS_MOST_TTL_SECONDS,
    DNS_TIMEOUT_SECONDS,
)
from fastnode.log_limit import LogLimit
from fastnode.names import check_port, check_service

__all__ = ["DnsDiscovery", "Lookup"]

log = logging.getLogger("fastnode.discovery")

#: The name of SRV records with ``srv=True`` (RFC 2782).
SRV_NAME: Final = "_fastnode._tcp.{service}"
PLACE: Final = "{service}"
#: RFC 1035, 2.3.4, and the underscore of SRV records.
MAX_NAME: Final = 253
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")

#: Asks for the records of a name; see `DnsClient.ask`.
Ask: TypeAlias = Callable[[str, Kind], Awaitable[Answer]]


class DnsDiscovery:
    """Finds the targets of services in the DNS: A and AAAA records, or SRV records.

    Headless Services of Kubernetes and the DNS of Consul are used like this. ::

        DnsDiscovery(port=15000, suffix="prod.svc.cluster.local.")  # A, AAAA
        DnsDiscovery(srv="_fastnode._tcp", suffix="prod.svc.cluster.local.")
        DnsDiscovery(srv="{service}", suffix="service.consul.")

    Of SRV records those with the lowest priority number are used. The others are used
    only while no host of a lower number has an address. The weights of SRV records are
    those of the targets. A name that does not exist or has no records is an empty
    set of targets. While no name server answers, the last targets stay valid.

    It cannot announce: the platform makes the records.

    Args:
        port: the port of all targets. SRV records have their own ports.
        srv: None asks for A and AAAA records of the service. A text asks for SRV
            records: it is the name with ``{service}`` for the service, or what comes
            before the service. True stands for ``_fastnode._tcp.{service}``.
        suffix: the domain behind the name. With a dot at its end the whole name is
            asked for as it is. Otherwise search domains are tried too.
        search: search domains; None takes those of ``/etc/resolv.conf``.
        nameservers: IP addresses, or pairs of an IP address and a port; None takes
            those of ``/etc/resolv.conf``.
        timeout: seconds for a question to all name servers together.
        min_ttl: seconds that an answer is used at least.
        max_ttl: seconds that an answer is used at most. An empty answer is used for
            5 s at most.

    Raises:
        ConfigError: an argument cannot work, or dnspython is not installed
            (``fastnode[dns]``).
    """

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        *,
        srv: str | bool | None = None,
        suffix: str = "",
        search: Sequence[str] | None = None,
        nameservers: Sequence[str | tuple[str, int]] | None = None,
        timeout: float = DNS_TIMEOUT_SECONDS,
        min_ttl: float = DNS_LEAST_TTL_SECONDS,
        max_ttl: float = DNS_MOST_TTL_SECONDS,
    ) -> None:
        check_port(port, "DnsDiscovery.port")
        if port == 0:
            raise ConfigError(
                "DnsDiscovery.port is 0: nothing can be reached there",
                hint="give the port of the acceptors",
            )
        self._port = port
        self._srv = bool(srv)
        self._pattern = _pattern(srv, suffix)
        if search is not None and (
            isinstance(search, (str, bytes)) or not isinstance(search, Sequence)
        ):
            raise ConfigError(
                f"DnsDiscovery.search is {search!r}", hint="write a list of domains"
            )
        for domain in search or ():
            _check_name("DnsDiscovery.search", domain)
        self._min_ttl = _seconds("min_ttl", min_ttl, 0.01)
        self._max_ttl = _seconds("max_ttl", max_ttl, self._min_ttl)
        self._arguments = (
            _nameservers(nameservers),
            None if search is None else tuple(search),
            _seconds("timeout", timeout, 0.01),
        )
        DnsClient(*self._arguments)  # says now that the library is missing

    def watch(self, service: str) -> Watch:
        """See `Discovery.watch`.

        Raises:
            ConfigError: `service` is not the name of a service, or gives no DNS name.
        """
        name = self._pattern.replace(PLACE, check_service(service))
        _check_name(f"the name of service {service}", name)

        async def follow(publish: Publish) -> None:
            lookup = Lookup(DnsClient(*self._arguments).ask)
            while True:
                if self._srv:
                    targets, ttl = await lookup.services(name)
                else:
                    targets, ttl = await lookup.hosts(name, self._port)
                publish(targets)
                await asyncio.sleep(self._pause(ttl, empty=not targets))

        most = max(self._max_ttl, DNS_LEAST_TTL_SECONDS)
        where = f"({name} in the DNS)"
        return Watch(service, follow, where=where, most=most)

    def _pause(self, ttl: float, *, empty: bool) -> float:
        """Return for how many seconds an answer is used."""
        most = self._max_ttl
        if empty:
            most = min(most, max(DNS_MOST_EMPTY_TTL_SECONDS, self._min_ttl))
        return min(max(ttl, self._min_ttl), most)

    def __repr__(self) -> str:
        kind = "SRV" if self._srv else "A and AAAA"
        return f"<DnsDiscovery: {kind} of {self._pattern}>"


class Lookup:
    """Finds the targets of one service. It knows neither sockets nor clocks.

    If only a part of the questions is answered, it takes the last good answers to the
    others. If nobody can tell, it raises `DiscoveryError`.

    Args:
        ask: asks one question.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        #: The last good answers to the questions for addresses.
        self._last: dict[tuple[str, Kind], Answer] = {}
        self._limit = LogLimit(log)

    async def hosts(self, name: str, port: int) -> tuple[list[Target], float]:
        """Return the targets of the A and AAAA records, and their TTL in seconds."""
        addresses, ttl = await self._addresses(name)
        return list(self._targets(addresses, port, DEFAULT_WEIGHT)), ttl

    async def services(self, name: str) -> tuple[list[Target], float]:
        """Return the targets of the SRV records, and their TTL in seconds."""
        answer = await self._ask(name, "SRV")
        ttl = answer.ttl
        # A single dot says that the service is not there (RFC 2782).
        records = sorted(
            {each for each in answer.services if each.host != "."},
            key=lambda each: (each.priority, each.host, each.port, each.weight),
        )
        for _, group in groupby(records, key=lambda each: each.priority):
            targets, least = await self._group(list(group), answer)
            ttl = min(ttl, least)
            if targets:
                return targets, ttl
        return [], ttl

    async def _group(
        self, records: Sequence[Srv], answer: Answer
    ) -> tuple[list[Target], float]:
        """Return the targets of records of one priority."""
        hosts = list(dict.fromkeys(each.host for each in records))
        asked = [host for host in hosts if host not in answer.extra]
        found = await asyncio.gather(
            *map(self._addresses, asked), return_exceptions=True
        )
        addresses = dict(answer.extra)
        ttl = answer.ttl
        failure: BaseException | None = None
        for host, each in zip(asked, found, strict=True):
            if isinstance(each, BaseException):
                if not isinstance(each, DiscoveryError):
                    raise each
                failure = each
                continue
            addresses[host], least = each
            ttl = min(ttl, least)
        targets = [
            target
            for each in records
            for target in self._targets(
                addresses.get(each.host, ()), each.port, each.weight
            )
        ]
        if failure is not None:
            if not targets:
                raise failure
            self._say_partial(failure)
            ttl = 0.0
        return targets, ttl

    async def _addresses(self, name: str) -> tuple[tuple[str, ...], float]:
        """Return the addresses of a host, and their TTL in seconds.

        Raises:
            DiscoveryError: nobody can tell.
        """
        kinds: tuple[Kind, ...] = ("A", "AAAA")
        found = await asyncio.gather(
            *(self._ask(name, kind) for kind in kinds), return_exceptions=True
        )
        answers: list[Answer] = []
        failures: list[DiscoveryError] = []
        for kind, each in zip(kinds, found, strict=True):
            if isinstance(each, Answer):
                self._last[name, kind] = each
                answers.append(each)
            elif isinstance(each, DiscoveryError):
                failures.append(each)
            else:
                raise each
        if len(failures) == len(kinds):
            raise failures[0]
        for kind in kinds if failures else ():
            last = self._last.get((name, kind))
            if last is not None and last not in answers:
                answers.append(last)
        addresses = tuple(address for each in answers for address in each.addresses)
        if failures:
            if not addresses:
                raise failures[0]
            self._say_partial(failures[0])
            return addresses, 0.0
        return addresses, min(each.ttl for each in answers)

    def _targets(
        self, addresses: Iterable[str], port: int, weight: int
    ) -> Iterable[Target]:
        for address in addresses:
            try:
                yield Target(address, port, weight)
            except ConfigError as error:
                text = "a record is ignored: %s"
                self._limit.say(
                    logging.WARNING, "record", text, error,
                    event="entry_ignored", error=error,
                )  # fmt: skip

    def _say_partial(self, failure: BaseException) -> None:
        text = "the DNS answers in part only, and older answers count: %s"
        self._limit.say(
            logging.WARNING, "partial", text, failure,
            event="dns_answer_partial", error=failure,
        )  # fmt: skip


def _pattern(srv: object, suffix: object) -> str:
    """Return the name to ask for, with a place for the service."""
    if srv is True:
        pattern = SRV_NAME
    elif srv is None or srv is False:
        pattern = PLACE
    elif isinstance(srv, str) and srv:
        pattern = srv if PLACE in srv else f"{srv}.{PLACE}"
    else:
        raise ConfigError(
            f"DnsDiscovery.srv is {srv!r}",
            hint='write srv="_fastnode._tcp", or srv="{service}"',
        )
    if not isinstance(suffix, str):
        raise ConfigError(
            f"DnsDiscovery.suffix is {suffix!r}",
            hint='write a domain: suffix="prod.svc.cluster.local."',
        )
    domain = suffix.removeprefix(".")
    pattern = f"{pattern}.{domain}" if domain else pattern
    _check_name("the name of DnsDiscovery", pattern.replace(PLACE, "x"))
    return pattern


def _check_name(what: str, name: object) -> None:
    """Raise `ConfigError` unless a name can be asked for."""
    if isinstance(name, str) and len(name) <= MAX_NAME and _NAME.fullmatch(name):
        return
    raise ConfigError(
        f"{what} is {name!r:.300}, which is no DNS name",
        hint="use labels of 1 to 63 letters, digits, '-' and '_', with dots between",
    )


def _nameservers(given: object) -> tuple[tuple[str, int], ...] | None:
    if given is None:
        return None
    hint = 'write nameservers=["10.0.0.10"], or [("10.0.0.10", 53)]'
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
        raise ConfigError(f"DnsDiscovery.nameservers is {given!r}", hint=hint)
    found = []
    for each in given:
        host, port = each if isinstance(each, tuple) and len(each) == 2 else (each, 53)
        try:
            # An int would be an address too.
            ipaddress.ip_address(host if isinstance(host, str) else "")
        except ValueError:
            raise ConfigError(f"{each!r} is no name server", hint=hint) from None
        check_port(port, f"the port of the name server {host}")
        found.append((host, port))
    return tuple(found)


def _seconds(name: str, value: object, least: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not least <= value <= 86400
    ):
        raise ConfigError(
            f"DnsDiscovery.{name} is {value!r}", hint=f"seconds, {least:g} to 86400"
        )
    return float(value)
