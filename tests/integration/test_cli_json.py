"""What `--json` prints is as docs/command.md says, one object on each line."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fastnode import Certificate
from helpers.command import (
    ME,
    ORDERS,
    ORDERS_FILES,
    TIMEOUT_SECONDS,
    certificates,
    command,
    ended,
    environment,
    fastnode,
    invoke,
    listening,
    me,
)
from helpers.documents import section, table

PAGE = (Path(__file__).parents[2] / "docs/command.md").read_text()
TYPES: dict[str, Any] = {
    "text": str,
    "number": (int, float),
    "true or false": bool,
    "object": dict,
}


def documented(event: str) -> dict[str, str]:
    """The fields of an object and their types, from the document."""
    rows = table(section(PAGE, f"`{event}`"), "field")
    return {row[0].strip("`"): row[1] for row in rows}


def records(out: bytes | list[str]) -> list[dict[str, Any]]:
    """The objects in lines of output; each is as the document says."""
    lines = out.decode().splitlines() if isinstance(out, bytes) else out
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for record in found:
        fields = documented(record["event"])
        assert list(record) == ["event", *fields]
        for name, kind in fields.items():
            bare = kind.removesuffix(" or null")
            if record[name] is None:
                assert bare != kind, f"{record['event']}.{name}"
            else:
                assert isinstance(record[name], TYPES[bare])
    return found


def test_events_are_told_apart() -> None:
    with pytest.raises(AssertionError):
        records(b'{"event": "sent", "node": "a@b"}')


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("certs"))


def test_ping(certs: Path) -> None:
    with listening(certs) as (_, address):
        options = ["--count", 3, "--interval", 0, "--json"]
        result = invoke("ping", ORDERS, *me(certs, address), *options)
    assert (result.exit_code, result.stderr) == (0, "")
    first, *trips, last = records(result.stdout.splitlines())
    assert first["event"] == "connected"
    assert first["node"] == ORDERS
    assert "{host}:{port}".format(**first["address"]) == address
    shown = Certificate.load(
        certs / f"{ORDERS_FILES}.pem", certs / f"{ORDERS_FILES}-key.pem"
    )
    assert int(first["serial"], 16) == shown.serial_number
    assert first["verified"] is True
    assert [(trip["event"], trip["number"]) for trip in trips] == [
        ("round_trip", 1), ("round_trip", 2), ("round_trip", 3)
    ]  # fmt: skip
    times = sorted(trip["seconds"] for trip in trips)
    assert last["event"] == "summary"
    assert last["count"] == 3
    assert [last[k] for k in ("fastest", "median", "slowest")] == times


def test_call_send_and_listen(certs: Path) -> None:
    binary = b"\xff\x00\n"
    with listening(certs, "--echo", "--json") as (process, address):
        who = [*me(certs, address), "--json"]
        status, out, errors = fastnode("call", ORDERS, "x\ny", *who, stdin=b"hi\n")
        assert (status, errors) == (0, "")
        (reply,) = records(out)
        assert (reply["event"], reply["payload"]) == ("reply", "hi\n")
        assert (reply["bytes"], reply["encoding"]) == (3, "utf-8")
        assert (reply["node"], reply["endpoint"]) == (ORDERS, "x\ny")
        options = [*who, "--chunk", 2]
        status, out, errors = fastnode("send", ORDERS, "b", *options, stdin=binary)
        assert (status, errors) == (0, "")
        (sent,) = records(out)
        assert (sent["event"], sent["messages"], sent["bytes"]) == ("sent", 2, 3)
        assert (sent["node"], sent["endpoint"]) == (ORDERS, "b")
        status, lines, errors = ended(process, signal.SIGINT)
    assert status == 0
    called, one, two, last = records(lines)
    assert last == {"event": "stopped", "node": ORDERS}
    assert called == {
        "event": "message", "sender": ME, "endpoint": "x\ny", "metadata": {},
        "bytes": 3, "payload": "hi\n", "encoding": "utf-8",
    }  # fmt: skip
    assert (one["encoding"], two["encoding"]) == ("base64", "utf-8")
    assert base64.b64decode(one["payload"]) + two["payload"].encode() == binary


def test_listen_says_where(certs: Path) -> None:
    with subprocess.Popen(
        command("listen", ORDERS, "--dir", certs, "--port", 0, "--json", "--quiet"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            (first,) = records(process.stdout.readline())
            process.send_signal(signal.SIGTERM)
            (last,) = records(process.communicate(timeout=TIMEOUT_SECONDS)[0])
        finally:
            process.kill()
    assert (first["node"], first["address"]["host"]) == (ORDERS, "127.0.0.1")
    assert last == {"event": "stopped", "node": ORDERS}
    assert process.returncode == 0


def test_an_error_is_an_object_too(certs: Path, tmp_path: Path) -> None:
    with listening(certs, "--quiet") as (_, address):
        who = [*me(certs, address), "--json"]
        for name in ("ping", "call", "send"):
            endpoint = [] if name == "ping" else ["x"]
            result = invoke(name, "else@127.0.0.1", *endpoint, *who)
            (error,) = records(result.stdout.splitlines())
            assert error["event"] == "error"
            assert error["error"] == "PeerNameMismatch"
            assert (error["code"], error["side"]) == ("unauthenticated", "local")
            assert error["peer"] == "else@127.0.0.1"
            assert result.exit_code == error["exit_code"] == 3
            words = f"error: {error['message']}\nhint: {error['hint']}\n"
            assert result.stderr == words
    result = invoke("check", address, "--dir", tmp_path, "--as", ME, "--json")
    (error,) = records(result.stdout.splitlines())
    assert result.exit_code == error["exit_code"] == 2
    assert "No such file" in error["message"]


def test_check(certs: Path) -> None:
    with listening(certs, "--quiet") as (_, address):
        who = ["--dir", certs, "--as", ME, "--json"]
        result = invoke("check", address, *who)
        assert (result.exit_code, result.stderr) == (0, "")
        check_report(json.loads(result.stdout), ok=True)
        result = invoke("check", address, *who, "--name", "other.example")
        assert (result.exit_code, result.stderr) == (3, "")
        check_report(json.loads(result.stdout), ok=False)


def check_report(report: dict[str, Any], *, ok: bool) -> None:
    assert report["ok"] is ok
    assert set(report) == set(documented("fastnode check --json"))
    fields = {row[0].strip("`") for row in table(section(PAGE, "Findings"), "field")}
    for finding in report["findings"]:
        assert set(finding) == fields
