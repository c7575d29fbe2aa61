"""A handler that raises costs a log line, and nothing else."""

from __future__ import annotations

import errno
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastnode import loggers
from fastnode.loggers import LOGGERS, make_careful

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
