"""A handler of the log that raises costs a line; records have fields for programs."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import LinkLost, Peer, Side, loggers
from fastnode.loggers import LOGGERS, MOST_CHARACTERS, fields, make_careful
from helpers.documents import section

SOURCE = Path(__file__).parents[2] / "src" / "fastnode"


class FullDisk(logging.Handler):
    """As a handler of somebody's own, on a full disk."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_handler_that_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "_last_words", loggers._LastWords())
    log = logging.getLogger("fastnode.test.full")
    make_careful("fastnode.test.full")
    handler = FullDisk()
    log.addHandler(handler)
    try:
        for _ in range(3):
            log.error("something")
        monkeypatch.setattr(logging, "raiseExceptions", False)
        log.error("something")
    finally:
        log.removeHandler(handler)
    assert capsys.readouterr().err.splitlines() == [
        "fastnode: a log line was lost: OSError: [Errno 28] No space left on device"
    ]


def test_loggers_of_an_application_keep_their_class() -> None:
    class Own(logging.Logger):
        pass

    logging.setLoggerClass(Own)
    try:
        log = logging.getLogger("fastnode.test.own")
    finally:
        logging.setLoggerClass(logging.Logger)
    make_careful("fastnode.test.own")
    assert type(log) is Own


def test_loggers_of_nodes_are_careful_from_the_beginning() -> None:
    code = (
        "import fastnode, logging\n"
        "from fastnode.loggers import LOGGERS, CarefulLogger\n"
        "found = [type(logging.getLogger(name)) for name in LOGGERS]\n"
        "assert found and set(found) == {CarefulLogger}, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_loggers_are_known() -> None:
    used: set[str] = set()
    # Not what is installed: a wheel has no sources of the extension modules.
    for path in SOURCE.rglob("*.py*"):
        if path.suffix in (".py", ".pyx") and "cli" not in path.parts:
            text = path.read_text(encoding="utf-8")
            used.update(re.findall(r'getLogger\("([\w.]+)"\)', text))
    assert used == set(LOGGERS)


# --- fields ---------------------------------------------------------------------------


class Certificate:
    """As one of a stranger."""

    def __init__(self, serial_number: object) -> None:
        self._number = serial_number

    @property
    def serial_number(self) -> int:
        if isinstance(self._number, int):
            return self._number
        raise ValueError(self._number)


def test_fields_of_a_peer_and_an_error() -> None:
    peer = Peer("a@h", ("::1", 7), certificate=Certificate(255))  # type: ignore[arg-type]
    lost = LinkLost("gone", peer=peer, side=Side.REMOTE)
    assert fields("link_down", node="b@h", link=3, error=lost) == {
        "event": "link_down",
        "node": "b@h",
        "peer": "a@h",
        "link": 3,
        "code": "unavailable",
        "side": "remote",
        "reason": "LinkLost",
        "address": "[::1]:7",
        "serial": "ff",
    }


def test_fields_that_are_none_are_left_out() -> None:
    assert fields("up", node=None, peer=None, worker=None) == {"event": "up"}


def test_errors_of_others_are_not_asked() -> None:
    class Odd(Exception):
        @property
        def code(self) -> str:
            raise AssertionError

    assert fields("failed", error=Odd()) == {"event": "failed", "reason": "Odd"}


def test_a_certificate_without_a_number() -> None:
    assert fields("odd", certificate=Certificate("no")) == {"event": "odd"}


def test_a_value_that_cannot_be_written() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    assert fields("odd", file=Odd()) == {"event": "odd", "file": "Odd"}


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.integers()))
def test_fields_can_be_written_as_json_on_one_line(
    endpoint: str, others: dict[str, Any]
) -> None:
    for name in ("event", *inspect.signature(fields).parameters):
        others.pop(name, None)
    found = fields("tried", endpoint=endpoint * 100, **others)
    assert json.loads(json.dumps(found)) == found
    for value in found.values():
        if isinstance(value, str):
            assert value.isprintable()
            assert len(value) <= 10 * MOST_CHARACTERS + 3


def test_no_field_is_one_of_a_record() -> None:
    own = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    page = (SOURCE.parents[1] / "docs/logging.md").read_text()
    named = set(re.findall(r"`(\w+)`", section(page, "Events")))
    assert not named & own


def test_a_record_factory_with_a_field_of_the_same_name() -> None:
    usual = logging.getLogRecordFactory()

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        record.node = "of the application"
        return record

    log = logging.getLogger("fastnode.test.factory")
    make_careful(log.name)
    seen: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Keeping()
    log.addHandler(handler)
    logging.setLogRecordFactory(factory)
    try:
        log.error("something", extra=fields("tried", node="a@h", peer="b@h"))
    finally:
        logging.setLogRecordFactory(usual)
        log.removeHandler(handler)
    (record,) = seen
    got = vars(record)
    assert (got["node"], got["peer"]) == ("of the application", "b@h")
