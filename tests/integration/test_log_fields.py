"""Records of real nodes have the fields that docs/logging.md promises."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from contract.test_log_events import documented
from fastnode import CallError, HandshakeError, Message, Peer, RemoteError
from helpers.documents import section
from helpers.nodes import A, B, pair, until

PAGE = (Path(__file__).parents[2] / "docs/logging.md").read_text()
#: What comes with a field of the table, see the text above it.
WITH = {"peer": {"address", "serial"}, "reason": {"code", "side", "peer", "address"}}
USUAL = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What a record has beside the attributes that each record has."""
    return {name: v for name, v in vars(record).items() if name not in USUAL}


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The fields of the records of an event."""
    found = [extras(record) for record in caplog.records]
    return [fields for fields in found if fields.get("event") == name]


def check(records: list[logging.LogRecord]) -> None:
    """Each record has an event of the table, and no field but those of its row."""
    rows = documented()
    assert records
    for record in records:
        if not record.name.startswith("fastnode"):
            continue
        fields = extras(record)
        row = rows[fields.pop("event")]
        assert record.name.removeprefix("fastnode.") in row.loggers
        assert record.levelname in row.levels
        allowed = row.fields | {"left_out"}
        for name in row.fields:
            allowed |= WITH.get(name, set())
        assert fields.keys() <= allowed, record
        for value in fields.values():
            assert isinstance(value, (str, int, float)), record
            assert isinstance(value, (int, float)) or value.isprintable()


async def test_the_life_of_a_link(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastnode")
    async with pair() as (a, b):

        @b.handler("broken")
        def broken(message: Message) -> bytes:
            raise RuntimeError("broken")

        @b.handler("choosy")
        def choosy(message: Message) -> bytes:
            raise CallError("not_today", "come tomorrow")

        link = await a.connect(B)
        for endpoint in ("broken", "choosy"):
            with pytest.raises(RemoteError):
                await link.call(endpoint, b"", timeout=10.0)
        link.send("no\nsuch\x1bendpoint", b"")
        await until(lambda: events(caplog, "message_dropped"))
        serial = f"{link.peer.certificate.serial_number:x}"  # type: ignore[union-attr]
        address = f"127.0.0.1:{link.peer.address[1]}"
    (up,) = [each for each in events(caplog, "link_up") if each["node"] == A]
    assert up == {
        "event": "link_up",
        "node": A,
        "peer": B,
        "link": up["link"],
        "address": address,
        "serial": serial,
    }
    (down,) = [each for each in events(caplog, "link_down") if each["node"] == A]
    assert down["link"] == up["link"]
    assert (down["peer"], down["reason"], down["code"]) == (
        B,
        "LinkClosed",
        "unavailable",
    )
    other = {each["link"] for each in events(caplog, "link_up") if each["node"] == B}
    assert other.isdisjoint({up["link"]})
    (failed,) = events(caplog, "handler_failed")
    assert (failed["node"], failed["peer"], failed["endpoint"]) == (B, A, "broken")
    assert failed["reason"] == "RuntimeError"
    assert "code" not in failed
    (refused,) = events(caplog, "handler_refused")
    assert (refused["node"], refused["endpoint"]) == (B, "choosy")
    (dropped,) = events(caplog, "message_dropped")
    assert dropped["endpoint"] == r"no\nsuch\x1bendpoint"
    check(caplog.records)


async def test_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fastnode")

    def refuse(peer: Peer) -> bool:
        return False

    async with pair({}, {"authorize": refuse}) as (a, _):
        with pytest.raises(HandshakeError):
            await a.connect(B)
        await until(lambda: events(caplog, "connection_refused"))
    (refused,) = events(caplog, "connection_refused")
    assert (refused["node"], refused["peer"], refused["side"]) == (B, A, "local")
    assert refused["reason"] == "NotAuthorized"
    assert refused["code"] == "permission_denied"
    assert re.fullmatch(r"[0-9a-f]+", refused["serial"])
    (failed,) = events(caplog, "dial_failed")
    assert (failed["node"], failed["peer"], failed["side"]) == (A, B, "remote")
    assert failed["address"].startswith("127.0.0.1:")
    check(caplog.records)


async def test_the_formatter_of_the_document(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastnode")
    code = section(PAGE, "Structured logging").partition("<!-- test: the formatter -->")
    found = re.search(r"```python\n(.*?)```", code[2], re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    formatter: logging.Formatter = names["JsonFormatter"]()
    async with pair() as (a, _):
        await a.connect(B)
    lines = [json.loads(formatter.format(record)) for record in caplog.records]
    (up,) = [line for line in lines if line["event"] == "link_up" and line["node"] == A]
    assert up["message"].startswith(f"link up: {B}")
    assert (up["level"], up["logger"], up["peer"]) == ("INFO", "fastnode.node", B)
    assert not up.keys() & USUAL - {"message"}
