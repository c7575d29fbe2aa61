"""A handler that raises costs a log line, and nothing else."""

from __future__ import annotations

import errno
import importlib
import logging
import pkgutil

import pytest

import fastnode
from fastnode import loggers
from fastnode.loggers import CarefulLogger, make_careful


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
    make_careful("fastnode.test")
    assert type(log) is Own


@pytest.mark.parametrize("name", ["link", "node", "acceptor", "certs"])
def test_loggers_of_nodes_are_careful(name: str) -> None:
    for module in pkgutil.walk_packages(fastnode.__path__, "fastnode."):
        if not module.name.startswith(("fastnode.cli", "fastnode.__main__")):
            importlib.import_module(module.name)
    assert isinstance(logging.getLogger(f"fastnode.{name}"), CarefulLogger)
