"""`fastnode health`: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import AcceptorOptions, NetworkOptions, NodeOptions, start_node
from fastnode.certs.authority import Authority
from fastnode.cli.exit_code import EXIT_CODES
from fastnode.cli.health import result, understood
from fastnode.cli.options import Identity
from fastnode.errors import ProtocolError
from helpers.command import (
    ORDERS,
    ORDERS_FILES,
    certificates,
    check_error,
    command,
    environment,
    fastnode,
    invoke,
    listening,
    me,
)
from helpers.documents import table
from helpers.nodes import refusing, until

DEPLOY = (Path(__file__).parents[2] / "docs/deploy.md").read_text()


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("certs"))


@pytest.mark.one_loop
async def test_a_node_and_its_checks(certs: Path) -> None:
    files = [certs / f"{ORDERS_FILES}{end}.pem" for end in ("", "-key")]
    options = NodeOptions(
        cert_manager=Identity(files[0], files[1], certs / "ca.pem").manager(),
        network=NetworkOptions(acceptors=[AcceptorOptions(port=0)]),
        ready=False,
        shutdown_timeout=5.0,
    )
    async with await start_node(ORDERS, options) as node:
        address = "{}:{}".format(*node.acceptors[0].address)

        async def ask(*more: object) -> tuple[int, bytes, str]:
            arguments = ["health", ORDERS, *me(certs, address), *more]
            return await asyncio.to_thread(fastnode, *arguments)

        assert await ask() == (1, f"{ORDERS}: starting\n".encode(), "")
        node.set_ready(True)
        assert await ask() == (0, f"{ORDERS}: ready\n".encode(), "")
        node.add_check("good", lambda: True)
        node.add_check("bad", lambda: 1 / 0)
        await until(lambda: node.health.checks["bad"].ok is False)
        status, out, errors = await ask()
        assert (status, errors) == (1, "")
        first, good, bad = out.decode().splitlines()
        assert first == f"{ORDERS}: ready"
        assert good.startswith("  good: passes, ")
        assert bad == "  bad: fails: ZeroDivisionError"
        status, out, errors = await ask("--json")
        assert (status, errors) == (1, "")
        told = json.loads(out)
        assert told["event"] == "health"
        assert (told["node"], told["instance"]) == (ORDERS, node.instance)
        assert (told["state"], told["ok"]) == ("ready", False)
        assert told["checks"]["bad"]["reason"] == "ZeroDivisionError"


def test_a_node_that_listens(certs: Path) -> None:
    with listening(certs) as (_, address):
        done = invoke("health", ORDERS, *me(certs, address))
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{ORDERS}: ready\n", "")


def test_a_node_of_an_older_version(
    certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastnode.node.health.HEALTH_ENDPOINT", "fastnode.later")
    with listening(certs, "--echo") as (_, address):
        done = invoke("health", ORDERS, *me(certs, address))
    check_error(done, 1, "does not say how it is", "fastnode ping")


def test_other_exit_codes(certs: Path, tmp_path: Path) -> None:
    check_error(invoke("health", ORDERS), 2, "--cert")
    with refusing() as (host, port):
        done = invoke("health", ORDERS, *me(certs, f"{host}:{port}"))
    check_error(done, 4)
    Authority.create("another").save(tmp_path)
    with listening(certs) as (_, address):
        other = ["--ca", tmp_path / "ca.pem"]
        done = invoke("health", ORDERS, *me(certs, address), *other)
    check_error(done, 3, "authority")


def test_exit_codes_are_documented() -> None:
    sections = DEPLOY.split("**The command.**")
    rows = {row[0] for row in table(sections[1], "exit code")}
    assert rows == {str(code) for code in EXIT_CODES} - {"130"}


GOOD = {
    "node": "a@b",
    "instance": "00",
    "state": "ready",
    "ok": True,
    "checks": {"x": {"ok": True, "reason": None, "seconds": 0.5, "later": 1}},
    "later": {},
}
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ok", "reason", "seconds", "state", "checks"]), inner
        )
    ),
    max_leaves=8,
)


def test_a_reply_of_a_newer_version() -> None:
    found = understood("a@b", json.dumps(GOOD).encode())
    assert found["checks"] == {"x": {"ok": True, "reason": None, "seconds": 0.5}}
    assert "later" not in found


@given(
    st.binary(max_size=20)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(sorted(GOOD)), JSON).map(
        lambda pair: json.dumps({**GOOD, pair[0]: pair[1]}).encode()
    )
    | JSON.map(lambda value: json.dumps({**GOOD, "checks": {"x": value}}).encode())
)
def test_any_reply(reply: bytes) -> None:
    """A peer may reply anything. It is understood, or it is a `ProtocolError`."""
    try:
        found = understood("a@b", reply)
    except ProtocolError:
        return
    json.dumps(found, allow_nan=False)
    for check in found["checks"].values():
        assert isinstance(result(check), str)


def test_replies_that_are_too_deep_or_too_large() -> None:
    huge = json.dumps(GOOD).replace("0.5", "9" * 400)
    for reply in (b"[" * 100_000, huge.encode(), b"", b"\xff", b"NaN", b"null"):
        with pytest.raises(ProtocolError):
            understood("a@b", reply)


def test_the_probe_of_the_image(certs: Path) -> None:
    """It shows the certificate of the node, dials this host, and verifies the name."""
    image = DEPLOY.replace("\\\n", "").partition("HEALTHCHECK")[2]
    words = json.loads(image[image.index("[") : image.index("]") + 1])
    assert words[:3] == ["fastnode", "health", "orders@orders.internal"]
    assert invoke("ca", "issue", words[2], "--dir", certs).exit_code == 0
    stem = certs / "orders_orders.internal"
    real = {
        "/certs/tls.crt": f"{stem}.pem",
        "/certs/tls.key": f"{stem}-key.pem",
        "/certs/ca.crt": certs / "ca.pem",
    }
    listens = [words[2], "--dir", certs, "--host", "127.0.0.1", "--port", 0]
    with subprocess.Popen(
        command("listen", *listens), env=environment(), stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().split()[-1]
            real["127.0.0.1:15000"] = address
            done = invoke(*[real.get(word, word) for word in words[1:]])
        finally:
            process.terminate()
    assert (done.exit_code, done.stderr) == (0, "")
