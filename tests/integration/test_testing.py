"""`fastnode.testing`: nodes and certificates for the tests of users."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertificateRequired,
    CertificateRevoked,
    CertPool,
    ClientAuth,
    ConfigError,
    FastnodeError,
    HostnameMismatch,
    Message,
    NetworkOptions,
    NodeOptions,
    NoRoute,
    Route,
    UnknownAuthority,
)
from fastnode.testing import Network, authority, cluster, pair
from helpers.nodes import WAIT_SECONDS, refusing


def echo(message: Message) -> bytes:
    return message.payload + b" from " + message.sender.name.encode()


# --- pair ----------------------------------------------------------------------------


async def test_a_pair_calls_in_both_directions_over_verified_links() -> None:
    async with pair() as (a, b):
        assert (a.name, b.name) == ("alpha@127.0.0.1", "beta@127.0.0.1")
        for node, other in ((a, b), (b, a)):
            other.handler("echo")(echo)
            reply = await node.call(other.name, "echo", b"hi", timeout=WAIT_SECONDS)
            assert reply == b"hi from " + node.name.encode()
            assert all(link.peer.verified for link in node.links)
            assert all(link.peer.tls_version == "TLSv1.3" for link in node.links)


@pytest.mark.parametrize("through_a_network", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("orders@localhost", "billing@127.0.0.1"),
        ("orders@10.0.0.5", "billing@10.0.0.7"),
        ("orders@shop.example", "billing@bank.example"),
    ],
)
async def test_a_pair_has_the_names_of_production(
    first: str, second: str, through_a_network: bool
) -> None:
    """Their hosts need not exist here, and are verified all the same."""
    network = Network() if through_a_network else None
    async with pair(first, second, network=network) as (a, b):
        assert (a.name, b.name) == (first, second)
        for node, other in ((a, b), (b, a)):
            link = await node.connect(other.name)
            assert link.peer.verified
            await link.close()


async def test_a_certificate_has_to_cover_the_host_in_the_name() -> None:
    ca = authority()
    name = "billing@10.0.0.7"
    other = ca.certificate(name, host=False, dns=["other.example"])
    shows = NodeOptions(cert_manager=ca.manager(None, certificate=other))
    nodes = pair(second=name, options=[NodeOptions(), shows], authority=ca)
    async with nodes as (a, b):
        with pytest.raises(HostnameMismatch):
            await a.connect(b.name)


async def test_a_node_that_listens_everywhere_is_reached() -> None:
    acceptors = [AcceptorOptions(host="0.0.0.0")]
    options = NodeOptions(network=NetworkOptions(acceptors=acceptors))
    async with pair("a@shop.example", "b@localhost", options=options) as (a, b):
        await b.connect(a.name)
        await a.connect(b.name)


async def test_a_pair_in_plaintext() -> None:
    async with pair(plaintext=True) as (a, b):
        assert (await a.connect(b.name)).peer.tls_version is None


async def test_the_end_of_a_pair_stops_its_nodes_also_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="of the test"):
        async with pair() as nodes:
            link = await nodes[0].connect(nodes[1].name)
            raise RuntimeError("of the test")
    assert link.closed
    for node in nodes:
        with pytest.raises(FastnodeError):
            await node.connect("alpha@127.0.0.2")


# --- options -------------------------------------------------------------------------


async def test_options_of_all_nodes() -> None:
    options = NodeOptions(network=NetworkOptions(max_message_size=1000))
    async with pair(options=options) as (a, b):
        link = await a.connect(b.name)
        with pytest.raises(FastnodeError, match="1000"):
            link.send("x", bytes(1001))


async def test_options_of_each_node() -> None:
    seen: list[str] = []
    network = NetworkOptions(on_link_up=lambda link: seen.append(link.peer.name))
    async with pair(options=[NodeOptions(network=network), NodeOptions()]) as (a, b):
        await a.connect(b.name)
        assert seen == [b.name]


async def test_a_manager_of_the_options_is_used() -> None:
    ca = authority()
    mine = NodeOptions(cert_manager=authority().manager("alpha@127.0.0.1"))
    async with pair(options=[mine, NodeOptions()], authority=ca) as (a, b):
        with pytest.raises(UnknownAuthority):
            await a.connect(b.name)


async def test_nodes_that_only_dial_are_not_introduced() -> None:
    dials = NodeOptions(network=NetworkOptions(acceptors=()))
    async with pair(options=[dials, NodeOptions()]) as (a, b):
        assert not b.routes(a.name)
        assert (await a.connect(b.name)).peer.name == b.name


async def test_routes_and_a_resolver_of_the_options_stay() -> None:
    asked: list[str] = []
    with refusing() as (host, port):
        there = Route("^beta@", host, port)
        routed = NodeOptions(network=NetworkOptions(routes=[there]))
        asks = NodeOptions(network=NetworkOptions(resolver=asked.append))  # type: ignore[arg-type]
        async with pair(options=[routed, asks]) as (a, b):
            assert a.routes(b.name) == (there,)
            with pytest.raises(NoRoute):
                await a.connect(b.name)
            with pytest.raises(NoRoute):
                await b.connect(a.name)
    assert asked == ["alpha@127.0.0.1"]


async def test_acceptors_of_the_options_stay_except_for_the_default_port() -> None:
    acceptors = [AcceptorOptions(host="127.0.0.1"), AcceptorOptions(host="localhost")]
    options = NodeOptions(network=NetworkOptions(acceptors=acceptors))
    async with pair(options=options) as (a, b):
        assert len(a.acceptors) == len(b.acceptors) == 2
        ports = [acceptor.address[1] for node in (a, b) for acceptor in node.acceptors]
        assert len(set(ports)) == 4
    fixed = AcceptorOptions(port=ports[0], port_range=1)
    options = NodeOptions(network=NetworkOptions(acceptors=[fixed]))
    async with pair(options=[options, NodeOptions()]) as (a, b):
        assert a.acceptors[0].address[1] == ports[0]
        await b.connect(a.name)


# --- cluster -------------------------------------------------------------------------


async def test_in_a_cluster_each_reaches_each() -> None:
    async with cluster(5) as nodes:
        assert [node.name for node in nodes] == [
            f"node{n}@127.0.0.1" for n in range(1, 6)
        ]
        for node in nodes:
            node.handler("echo")(echo)
        calls = [
            node.call(other.name, "echo", b"", timeout=WAIT_SECONDS)
            for node in nodes
            for other in nodes
            if other is not node
        ]
        assert len(await asyncio.gather(*calls)) == 20


async def test_a_cluster_without_a_number_has_three_nodes() -> None:
    async with cluster() as nodes:
        assert len(nodes) == 3


async def test_names_that_look_alike_are_not_mistaken() -> None:
    """A dot of a name stands for itself in a route."""
    names = ["a.b@127.0.0.1", "a-b@127.0.0.1", "c@127.0.0.1"]
    async with cluster(names) as nodes:
        for node in nodes[:2]:
            assert (await nodes[2].connect(node.name)).peer.name == node.name


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((0,), {}, "a cluster of 0"),
        ((True,), {}, "a cluster of True"),
        (("alpha@127.0.0.1",), {}, "a cluster of 'alpha"),
        (([],), {}, r"a cluster of \[\]"),
        ((["alpha"],), {}, "not a node name"),
        ((["a@h", "a@H"],), {}, "the same name"),
        ((2,), {"options": "fast"}, "options is a str"),
        ((2,), {"options": [NodeOptions()]}, "1 options for 2 nodes"),
        ((2,), {"authority": "CA"}, "authority is a str"),
        ((2,), {"network": NetworkOptions()}, "network is a NetworkOptions"),
    ],
)
async def test_arguments_that_cannot_work(
    arguments: Any, options: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        async with cluster(*arguments, **options):
            pass
    assert raised.value.hint


async def test_a_node_that_cannot_start_leaves_nothing_behind() -> None:
    with refusing() as (host, port):
        taken = AcceptorOptions(host=host, port=port, port_range=1)
        options = NodeOptions(network=NetworkOptions(acceptors=[taken]))
        with pytest.raises(ConfigError, match="in use"):
            async with pair(options=[NodeOptions(), options]):
                pass


# --- authority -----------------------------------------------------------------------


async def test_nodes_of_two_authorities_refuse_each_other() -> None:
    ones, others = authority("ones"), authority("others")
    assert ones.cert_pem != others.cert_pem
    assert authority().cert_pem != authority().cert_pem
    async with pair(authority=ones) as (_, b):
        host, port = b.acceptors[0].address
        route = Route("^beta@", host, port)
        dials = NetworkOptions(acceptors=(), routes=[route])
        names = ("gamma@127.0.0.1", "delta@127.0.0.1")
        options = NodeOptions(network=dials)
        async with cluster(names, options=options, authority=others) as (c, _):
            with pytest.raises(UnknownAuthority):
                await c.connect(b.name)


async def test_a_manager_without_a_certificate_is_refused() -> None:
    ca = authority()
    nobody = NodeOptions(
        cert_manager=ca.manager(None), network=NetworkOptions(acceptors=())
    )
    async with pair(options=[nobody, NodeOptions()], authority=ca) as (a, b):
        with pytest.raises(CertificateRequired):
            await a.connect(b.name)


async def test_a_certificate_that_is_revoked() -> None:
    ca = authority()
    certificate = ca.certificate("alpha@127.0.0.1")
    pool = ca.pool()
    pool.add_crl(ca.crl([certificate.serial_number]))
    shows = NodeOptions(cert_manager=ca.manager(None, certificate=certificate))
    judges = NodeOptions(cert_manager=ca.manager("beta@127.0.0.1", client_cas=pool))
    async with pair(options=[shows, judges]) as (a, b):
        with pytest.raises(CertificateRevoked):
            await a.connect(b.name)


async def test_files_are_those_that_a_service_reads(tmp_path: Path) -> None:
    ca = authority()
    files = ca.write(tmp_path / "certs", "alpha@127.0.0.1")
    assert {path.name for path in (tmp_path / "certs").iterdir()} == {
        file.name for file in files
    }
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    pool = CertPool.load(files.ca)
    manager = CertAuthManager(
        Certificate.load(files.certificate, files.key),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    options = [NodeOptions(cert_manager=manager), NodeOptions()]
    async with pair(options=options, authority=ca) as (a, b):
        assert (await a.connect(b.name)).peer.verified


def test_files_can_be_renewed(tmp_path: Path) -> None:
    ca = authority()
    first = Certificate.load(*ca.write(tmp_path, "alpha@127.0.0.1")[1:])
    files = ca.write(str(tmp_path), "alpha@127.0.0.1")
    second = Certificate.load(files.certificate, files.key)
    assert second.serial_number != first.serial_number
    ca.write(tmp_path, "beta@127.0.0.1")
    with pytest.raises(ConfigError, match="exists"):
        authority().write(tmp_path, "gamma@127.0.0.1")
    assert not list(tmp_path.glob("gamma*"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        ca.write(tmp_path / "file", "alpha@127.0.0.1")


@pytest.mark.parametrize("name", ["", "alpha", "a b@host", None, 7, b"a@b"])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ConfigError):
        authority().certificate(name)
    with pytest.raises(ConfigError):
        authority("")


async def test_a_certificate_that_has_expired() -> None:
    ca = authority()
    now = datetime.now(UTC)
    day = timedelta(days=1)
    details = {"not_before": now - 2 * day, "not_after": now - day}
    assert ca.certificate("alpha@127.0.0.1", **details).not_valid_after < now
    shows = ca.manager(None, certificate=ca.certificate("alpha@127.0.0.1", **details))
    with pytest.raises(FastnodeError, match="expired"):
        async with pair(options=[NodeOptions(cert_manager=shows), NodeOptions()]):
            pass
