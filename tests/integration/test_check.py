"""`fastnode check`: each failure at its step, with the hint and the exit code."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fastnode
from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    CertPool,
    ClientAuth,
    FastnodeError,
    HandshakeError,
    RemoteError,
)
from fastnode.certs.authority import IssuedCertificate
from fastnode.cli.check.examination import Examination
from fastnode.cli.exit_code import EXIT_INTERRUPTED, exit_code
from fastnode.cli.main import cli
from fastnode.groups import DEFAULT_GROUPS, described_group
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers.constraints import constrained
from helpers.nodes import WAIT_SECONDS, A, B, running, until
from helpers.pki import authority, expired_certificate, manager, odd_certificate

hooked = pytest.mark.skipif(
    why_unavailable() is not None, reason="says less without the hook"
)


def save(folder: Path, issued: IssuedCertificate) -> list[str]:
    """The options that show this certificate."""
    folder.mkdir()
    issued.save(folder / "cert.pem", folder / "key.pem")
    return ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]


def trust(folder: Path, ca: str = "test CA") -> list[str]:
    file = folder / f"{ca}.pem"
    file.write_bytes(authority(ca).cert_pem)
    return ["--ca", str(file)]


async def examine(
    accepting: CertAuthManager, *options: str, code: int, name: str = B
) -> dict[str, Any]:
    """The JSON report on a node with this manager."""
    async with running(name, manager=accepting) as node:
        host, port = node.acceptors[0].address
        return await against(f"{host}:{port}", *options, code=code)


async def against(address: str, *options: str, code: int) -> dict[str, Any]:
    command = ["check", address, *options, "--json", "--timeout", "5"]
    done = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert done.exit_code == code, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is (code == 0)
    return report


def outcome(report: dict[str, Any]) -> dict[str, bool | None]:
    return {finding["name"]: finding["ok"] for finding in report["findings"]}


def failed(report: dict[str, Any]) -> dict[str, Any]:
    """The one step that failed."""
    (found,) = [f for f in report["findings"] if f["ok"] is False]
    assert isinstance(found, dict)
    return found


async def test_everything_is_in_order(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    report = await examine(manager(B), *mine, *trust(tmp_path), code=0)
    assert all(ok is not False for ok in outcome(report).values())
    assert {"server's chain", "server's name", "acceptance", "node name"} <= set(
        outcome(report)
    )
    text = json.dumps(report)
    assert "TLSv1.3" in text
    if why_unavailable() is None:
        (tls,) = [f["found"] for f in report["findings"] if f["name"] == "TLS"]
        assert tls.split(", ")[2] in map(described_group, DEFAULT_GROUPS)
    assert f"the acceptor takes {A}" in text


async def test_the_server_is_of_another_authority(tmp_path: Path) -> None:
    report = await examine(manager(B), *trust(tmp_path, "other CA"), code=3)
    assert report["error"] == "UnknownAuthority"
    assert failed(report)["name"].startswith("server's c")
    assert "not in --ca (CN=other CA)" in report["hint"]


@hooked
async def test_the_server_s_certificate_has_expired(tmp_path: Path) -> None:
    report = await examine(
        manager(B, shows=expired_certificate(B)), *trust(tmp_path), code=3
    )
    assert report["error"] == "CertificateExpired"
    assert outcome(report)["server's chain"] is True
    assert failed(report)["name"] == "server's dates"
    assert "expired on" in failed(report)["hint"]


@hooked
async def test_the_server_s_name_is_another(tmp_path: Path) -> None:
    report = await examine(manager(B), *trust(tmp_path), "--name", "b.example", code=3)
    assert report["error"] == "HostnameMismatch"
    assert outcome(report)["server's chain"] is True
    assert failed(report)["name"] == "server's name"
    assert "you connected to b.example: give --name" in failed(report)["hint"]


@hooked
async def test_the_server_s_usage_is_wrong(tmp_path: Path) -> None:
    shown = odd_certificate(B, server_auth=False)
    report = await examine(manager(B, shows=shown), *trust(tmp_path), code=3)
    assert failed(report)["name"] == "server's usage"


async def test_no_certificate_is_shown(tmp_path: Path) -> None:
    report = await examine(manager(B), *trust(tmp_path), code=3)
    assert report["error"] == "CertificateRequired"
    assert failed(report)["name"] == "acceptance"


async def test_our_certificate_is_of_another_authority(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority("other CA").issue(NodeName.parse(A)))
    report = await examine(manager(B), *mine, *trust(tmp_path), code=3)
    assert report["error"] == "UnknownAuthority"
    assert outcome(report)["acceptance"] is False
    assert "CN=other CA" in report["hint"]
    if why_unavailable() is None:
        # The server named its authorities, and ours is not among them.
        assert outcome(report)["client authorities"] is False


async def test_a_name_that_our_certificate_does_not_cover(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    report = await examine(
        manager(B), *mine, *trust(tmp_path), "--as", "x@10.0.0.1", code=3
    )
    assert report["error"] == "PeerNameMismatch"
    assert "fastnode://x@10.0.0.1" in report["hint"]


async def test_a_server_whose_node_name_is_not_covered(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    odd = odd_certificate(B, uri=False, host=False, dns=["b.example"])
    report = await examine(
        manager(B, shows=odd), *mine, *trust(tmp_path), "--name", "b.example", code=3
    )
    assert report["error"] == "PeerNameMismatch"
    assert failed(report)["name"] == "node name"


async def test_an_open_door_and_no_name_to_introduce_ourselves_by(
    tmp_path: Path,
) -> None:
    door = manager(B, client_auth=ClientAuth.NO_CLIENT_CERT)
    report = await examine(door, *trust(tmp_path), code=0)
    assert outcome(report)["acceptance"] is None


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        report = await against(f"127.0.0.1:{port}", *trust(tmp_path), code=4)
    assert failed(report)["name"] == "connection"
    report = await against("no.such.host.invalid:1", *trust(tmp_path), code=4)
    assert failed(report)["name"] == "address"


async def test_something_that_is_not_tls(tmp_path: Path) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        report = await against(f"127.0.0.1:{port}", *trust(tmp_path), code=1)
    assert failed(report)["name"] == "TLS"
    assert "not TLS" in failed(report)["found"]


async def test_a_reset_between_connect_and_handshake(tmp_path: Path) -> None:
    """Each step is looked at before the next one begins."""
    gone = struct.pack("ii", 1, 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        pool = CertPool.from_pem(authority().cert_pem)
        examination = Examination(
            host,
            port,
            CertAuthManager(None, root_cas=pool),
            server_name=host,
            own=None,
            timeout=5.0,
        )
        steps = examination.run()
        while next(steps).name != "connection":
            pass
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
        accepted.close()
        await until(lambda: reset(examination._socket))
        (failure,) = [each for each in steps if each.ok is False]
    assert failure.name == "TLS"
    assert "the connection broke" in failure.found
    assert type(examination.error) is HandshakeError
    assert exit_code(examination.error) == 3


def reset(sock: socket.socket) -> bool:
    """Whether a connection has been reset."""
    return bool(select.select([sock], [], [], 0)[0])


@pytest.mark.one_loop
@pytest.mark.parametrize("kind", ["other authority", "no certificate", "no group"])
async def test_openssl_that_is_linked_into_the_interpreter(
    kind: str, tmp_path: Path
) -> None:
    """`fastnode check` says which step fails, with less detail."""
    other = manager(B, shows=odd_certificate(B, "other CA"))
    node = {
        "other authority": running(B, manager=other),
        "no certificate": running(B, manager=manager(B)),
        "no group": running(B, manager=manager(B), groups=["X25519"]),
    }[kind]
    async with node as b:
        host, port = b.acceptors[0].address
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LINKED_IN, "check", f"{host}:{port}",
            *trust(tmp_path), "--json", "--timeout", "5",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(WAIT_SECONDS):
            out, err = await child.communicate()
    assert child.returncode == 3, err.decode()
    report = json.loads(out)
    step, words = {
        "other authority": ("server's certificate", "not signed by an authority"),
        "no certificate": ("acceptance", "was shown none"),
        "no group": ("TLS", "no acceptable parameters"),
    }[kind]
    assert failed(report)["name"] == step
    assert words in failed(report)["found"]
    (engine,) = [each for each in report["findings"] if each["name"] == "engine"]
    assert "linked into the interpreter" in engine["found"]


LINKED_IN = """
import sys, _ssl
del _ssl.__file__
from fastnode.cli.main import cli
cli()
"""


def test_the_help_lists_the_exit_codes() -> None:
    """Those that the program ends with."""
    errors = [
        cls("x") for cls in vars(fastnode).values()
        if isinstance(cls, type) and issubclass(cls, FastnodeError)
        and cls is not RemoteError
    ]  # fmt: skip
    codes = {0, EXIT_INTERRUPTED, *map(exit_code, errors)}
    done = CliRunner().invoke(cli, ["--help"])
    listed = done.output.partition("Exit codes:\n")[2].partition("\n\n")[0]
    assert {int(n) for n in re.findall(r"^ +(\d+) ", listed, re.MULTILINE)} == codes


async def test_the_engine_is_named(tmp_path: Path) -> None:
    report = await examine(manager(B), *trust(tmp_path), code=3)
    (engine,) = [each for each in report["findings"] if each["name"] == "engine"]
    assert engine["found"] == str(fastnode.tls_engine())
    assert engine["ok"] is None
    version = CliRunner().invoke(cli, ["--version"])
    assert str(fastnode.tls_engine()) in version.output


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    ours = authority().issue(NodeName.parse(A))
    other = authority().issue(NodeName.parse(A))
    (tmp_path / "cert.pem").write_bytes(ours.cert_pem)
    (tmp_path / "key.pem").write_bytes(other.key_pem)
    command = ["check", "127.0.0.1:1", "--cert", str(tmp_path / "cert.pem")]
    command += ["--key", str(tmp_path / "key.pem")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2
    assert "is not the key of" in done.output
    assert "Traceback" not in done.output
    for address in ("127.0.0.1", "host:", ":1", "host:99999", "host:x"):
        done = CliRunner().invoke(cli, ["check", address])
        assert done.exit_code == 2, address
        assert "HOST:PORT" in done.output


async def test_for_people(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    async with running(B, manager=manager(B)) as node:
        host, port = node.acceptors[0].address
        for options, last in (
            ([*mine, *trust(tmp_path)], "a link would come up"),
            (trust(tmp_path), "no link: CertificateRequired"),
        ):
            done = await asyncio.to_thread(
                CliRunner().invoke, cli, ["check", f"{host}:{port}", *options]
            )
            assert done.output.rstrip().endswith(last)
            assert "pass  address: 127.0.0.1" in done.output
            for line in done.output.splitlines():
                assert len(line) <= 80
                assert line == line.rstrip()


async def test_name_constraints_forbid_the_node_name(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    issuer = constrained("permitted;DNS:team-a.internal", parent=authority())
    name = "pay@pay.team-b.internal"
    shown = issuer.issue(None, dns=[f"fastnode://{name}", "x.team-a.internal"])
    async with running(
        name,
        manager=manager(B, shows=shown.certificate()),
        acceptors=(AcceptorOptions(host="127.0.0.1", port=0),),
    ) as node:
        host, port = node.acceptors[0].address
        options = [*mine, *trust(tmp_path), "--name", "x.team-a.internal"]
        report = await against(f"{host}:{port}", *options, code=3)
    assert report["error"] == "PeerNameMismatch"
    assert failed(report)["name"] == "node name"
    assert "CN=team CA forbid pay.team-b.internal" in failed(report)["found"]
    assert "permitted;DNS:team-a.internal" in failed(report)["found"]
    assert "whose name constraints allow pay.team-b.internal" in report["hint"]


async def test_name_constraints_forbid_the_server_name(tmp_path: Path) -> None:
    mine = save(tmp_path / "a", authority().issue(NodeName.parse(A)))
    issuer = constrained("excluded;DNS:a.team-b.internal", parent=authority())
    shown = issuer.issue(NodeName.parse(B), dns=["*.team-b.internal"]).certificate()
    options = [*mine, *trust(tmp_path), "--name", "a.team-b.internal"]
    report = await examine(manager(B, shows=shown), *options, code=3)
    assert report["error"] == "HostnameMismatch"
    assert failed(report)["name"] == "server's name"
    assert "excluded;DNS:a.team-b.internal" in failed(report)["found"]
    options[-1] = "b.team-b.internal"
    await examine(manager(B, shows=shown), *options, code=0)


@hooked
async def test_name_constraints_that_tls_checks(tmp_path: Path) -> None:
    issuer = constrained("permitted;DNS:team-a.internal", parent=authority())
    shown = issuer.issue(None, dns=["pay.team-b.internal"]).certificate()
    options = [*trust(tmp_path), "--name", "pay.team-b.internal"]
    report = await examine(manager(B, shows=shown), *options, code=3)
    assert report["error"] == "UnknownAuthority"
    assert failed(report)["name"] == "server's chain"
    assert "permitted;DNS:team-a.internal" in failed(report)["found"]
