"""DnsDiscovery with a real DNS server whose records change."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio

from fastnode import ConfigError
from fastnode.discovery import (
    AnnouncingDiscovery,
    Discovery,
    DnsDiscovery,
    Target,
    kit,
)
from fastnode.discovery.watch import Watch
from helpers.dns_server import DnsServer, needs_dnsmasq
from helpers.nodes import WAIT_SECONDS, until

pytestmark = [needs_dnsmasq, pytest.mark.long]


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[DnsServer]:
    server = DnsServer(tmp_path)
    await server.start()
    yield server
    await server.stop()


def discovery_of(server: DnsServer, port: int = 15000, **more: Any) -> DnsDiscovery:
    """A discovery that sees changes soon and gives up soon."""
    options: dict[str, Any] = {
        "nameservers": [server.address],
        "suffix": "test.",
        "min_ttl": 0.02,
        "max_ttl": 0.1,
        "timeout": 0.5,
    }
    return DnsDiscovery(port, **{**options, **more})


async def next_set(watch: Watch) -> tuple[Target, ...]:
    async with asyncio.timeout(WAIT_SECONDS):
        return tuple(await anext(watch))


def hosts(*addresses: str, name: str = "billing.test") -> list[str]:
    return [f"host-record={name},{address}" for address in addresses]


def targets(*addresses: str, port: int = 15000) -> tuple[Target, ...]:
    return tuple(Target(address, port) for address in addresses)


# --- the kit --------------------------------------------------------------------------


class DnsSubject:
    """Targets as SRV records, which have ports."""

    def __init__(self, server: DnsServer) -> None:
        # A server that is stopped, and never answers, is given up at once.
        self.discovery: Discovery = discovery_of(server, srv=True, timeout=0.2)
        self._server = server
        self._services: dict[str, Sequence[Target]] = {}

    async def set_targets(self, service: str, targets: Sequence[Target]) -> None:
        self._services[service] = targets
        records = hosts("127.0.0.1", name="here.test")
        for name, all_ in self._services.items():
            records += [
                f"srv-host=_fastnode._tcp.{name}.test,here.test,{t.port},0,{t.weight}"
                for t in all_
            ]
        await self._server.set_records(records)

    def outage(self) -> AbstractAsyncContextManager[None]:
        return self._server.silent()


@pytest.mark.parametrize("check", kit.CHECKS)
async def test_kit(check: kit.Check, server: DnsServer) -> None:
    await check(DnsSubject(server))


@pytest.mark.one_loop
@pytest.mark.parametrize("check", kit.OUTAGE_CHECKS)
async def test_outages(check: kit.OutageCheck, server: DnsServer) -> None:
    await check(DnsSubject(server))


def test_the_platform_announces() -> None:
    discovery = DnsDiscovery(suffix="test.")
    assert isinstance(discovery, Discovery)
    assert not isinstance(discovery, AnnouncingDiscovery)


# --- addresses ------------------------------------------------------------------------


async def test_addresses_of_both_families_that_change(server: DnsServer) -> None:
    await server.set_records(hosts("10.0.0.1", "10.0.0.2", "2001:db8::1"))
    watch = discovery_of(server, 7000).watch("billing")
    assert await next_set(watch) == targets(
        "10.0.0.1", "10.0.0.2", "2001:db8::1", port=7000
    )
    await server.set_records(hosts("2001:db8::2"))
    assert await next_set(watch) == targets("2001:db8::2", port=7000)
    await server.set_records([])
    assert await next_set(watch) == ()
    await watch.aclose()


async def test_a_server_that_is_away_changes_nothing(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    await server.set_records(hosts("10.0.0.1"))
    watch = discovery_of(server).watch("billing")
    assert await next_set(watch) == targets("10.0.0.1")
    with caplog.at_level(logging.WARNING, "fastnode.discovery"):
        async with server.away():
            await until(lambda: "its last targets stay valid" in caplog.text)
            server.records = hosts("10.0.0.2")
    assert "no answer for A of billing.test." in caplog.text
    assert await next_set(watch) == targets("10.0.0.2")
    await watch.aclose()


async def test_another_name_server_is_asked_where_one_is_away(
    server: DnsServer,
) -> None:
    await server.set_records(hosts("10.0.0.1"))
    servers = [("127.0.0.1", 1), server.address]
    watch = discovery_of(server, nameservers=servers).watch("billing")
    assert await next_set(watch) == targets("10.0.0.1")
    await watch.aclose()


@pytest.mark.one_loop
async def test_search_domains(server: DnsServer) -> None:
    records = hosts("10.0.0.1", name="billing.prod.test")
    await server.set_records(records + hosts("10.0.0.2", name="audit.b.test"))
    discovery = discovery_of(server, suffix="", search=["b.test", "prod.test"])
    for service, address in (("billing", "10.0.0.1"), ("audit", "10.0.0.2")):
        watch = discovery.watch(service)
        assert await next_set(watch) == targets(address)
        await watch.aclose()


@pytest.mark.one_loop
async def test_aliases_are_followed(server: DnsServer) -> None:
    alias = "cname=billing.test,real.test"
    await server.set_records([*hosts("10.0.0.1", name="real.test"), alias])
    watch = discovery_of(server).watch("billing")
    assert await next_set(watch) == targets("10.0.0.1")
    await watch.aclose()


async def test_an_answer_that_is_too_long_for_one_datagram(server: DnsServer) -> None:
    many = [f"10.1.{n >> 8}.{n & 255}" for n in range(400)]
    await server.set_records(hosts(*many))
    watch = discovery_of(server).watch("billing")
    assert await next_set(watch) == tuple(sorted(targets(*many)))
    await watch.aclose()


@pytest.mark.one_loop
async def test_a_long_ttl_has_a_ceiling(tmp_path: Path) -> None:
    server = DnsServer(tmp_path, ttl=3600)
    server.records = hosts("10.0.0.1")
    await server.start()
    watch = discovery_of(server).watch("billing")
    assert await next_set(watch) == targets("10.0.0.1")
    await server.set_records(hosts("10.0.0.2"))
    assert await next_set(watch) == targets("10.0.0.2")
    await watch.aclose()
    await server.stop()


# --- SRV records ----------------------------------------------------------------------


@pytest.mark.one_loop
async def test_srv_records_have_ports_weights_and_priorities(
    server: DnsServer,
) -> None:
    name = "_fastnode._tcp.billing.test"
    a, b, c = (
        hosts(f"10.0.0.{n}", name=f"{host}.test")
        for n, host in enumerate("abc", start=1)
    )
    services = [
        f"srv-host={name},a.test,7001,10,60",
        f"srv-host={name},b.test,7002,10,40",
        f"srv-host={name},c.test,7003,20,100",
    ]
    await server.set_records(a + b + c + services)
    watch = discovery_of(server, srv="_fastnode._tcp").watch("billing")
    assert await next_set(watch) == (
        Target("10.0.0.1", 7001, 60),
        Target("10.0.0.2", 7002, 40),
    )
    # No host of the first priority has an address.
    await server.set_records(c + services)
    assert await next_set(watch) == (Target("10.0.0.3", 7003, 100),)
    await server.set_records(a + c + services)
    assert await next_set(watch) == (Target("10.0.0.1", 7001, 60),)
    # The service is decidedly not there.
    await server.set_records([*a, f"srv-host={name}"])
    assert await next_set(watch) == ()
    await watch.aclose()


@pytest.mark.one_loop
async def test_the_name_of_srv_records_can_be_chosen(server: DnsServer) -> None:
    await server.set_records(
        [
            *hosts("10.0.0.1", name="a.test"),
            "srv-host=billing.service.test,a.test,7001",
        ]
    )
    discovery = discovery_of(server, srv="{service}.service")
    watch = discovery.watch("billing")
    assert [(t.host, t.port) for t in await next_set(watch)] == [("10.0.0.1", 7001)]
    assert repr(discovery) == "<DnsDiscovery: SRV of {service}.service.test.>"
    await watch.aclose()


# --- options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"port": 0},
        {"port": "15000"},
        {"srv": 3},
        {"srv": ""},
        {"srv": "a..b"},
        {"suffix": "a b"},
        {"suffix": None},
        {"suffix": "x" * 64},
        {"search": "a.test"},
        {"search": ["a b"]},
        {"search": [3]},
        {"search": 3},
        {"nameservers": [5]},
        {"nameservers": 5},
        {"nameservers": [("10.0.0.1", 53, 1)]},
        {"nameservers": []},
        {"nameservers": "10.0.0.1"},
        {"nameservers": ["dns.example"]},
        {"nameservers": [("10.0.0.1", -1)]},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"min_ttl": -1},
        {"min_ttl": 5, "max_ttl": 1},
        {"max_ttl": True},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        DnsDiscovery(**options)
    assert caught.value.hint


def test_names_that_the_dns_does_not_allow_are_refused() -> None:
    discovery = DnsDiscovery(suffix="test.")
    for service in ("a..b", "s" * 64, ".".join(["s" * 60] * 5)):
        with pytest.raises(ConfigError, match="no DNS name"):
            discovery.watch(service)


def test_the_extra_is_named_where_it_is_missing() -> None:
    with mock.patch.dict(sys.modules, {"dns": None, "dns.asyncresolver": None}):
        with pytest.raises(ConfigError) as caught:
            DnsDiscovery()
    assert caught.value.hint == "pip install 'fastnode[dns]'"
