"""The loggers of fastnode, and the fields of their records.

A handler of the log that raises, on a full disk for example, costs its line and stops
no node. Each record has fields for programs beside its text for people: `fields` makes
the ``extra=`` of a record. docs/logging.md lists the events and their fields.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from fastnode.errors import FastnodeError
from fastnode.limits import LOG_INTERVAL_SECONDS, MAX_NODE_NAME_BYTES
from fastnode.names import joined
from fastnode.peer import Peer

if TYPE_CHECKING:
    from fastnode.names import NodeName
    from fastnode.peer import Address

__all__ = ["LOGGERS", "CarefulLogger", "escaped", "fields", "make_careful"]

#: All that nodes write to.
LOGGERS: Final = (
    "fastnode.acceptor",
    "fastnode.certs",
    "fastnode.discovery",
    "fastnode.link",
    "fastnode.node",
    "fastnode.tls",
    "fastnode.workers",
)

#: Characters of a text in a field: as many as the longest node name has. Peers choose
#: some of these texts.
MOST_CHARACTERS: Final = MAX_NODE_NAME_BYTES


class CarefulLogger(logging.Logger):
    """A logger whose handlers may raise: the line is lost, and standard error says so.

    Handlers of the standard library catch what their streams raise. Other handlers do
    not, and their error would come out of the callback of a link that logs a line.
    """

    def makeRecord(  # noqa: N802
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """See `logging.Logger`. What the record has already stays as it is.

        A record factory of the application may set ``node`` or ``event`` itself. Then
        `logging` would raise `KeyError`, in a callback of a link.
        """
        record = super().makeRecord(
            name, level, fn, lno, msg, args, exc_info, func, None, sinfo
        )
        for key, value in (extra or {}).items():
            record.__dict__.setdefault(key, value)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """See `logging.Logger`."""
        try:
            super().handle(record)
        except Exception as error:
            if logging.raiseExceptions:
                _last_words.say(error)


class _LastWords:
    """Says on standard error what the log cannot."""

    def __init__(self) -> None:
        self._last = -LOG_INTERVAL_SECONDS

    def say(self, error: Exception) -> None:
        now = monotonic()
        if now - self._last < LOG_INTERVAL_SECONDS:
            return
        self._last = now
        with suppress(Exception):
            kind = type(error).__name__
            sys.stderr.write(f"fastnode: a log line was lost: {kind}: {error}\n")


_last_words = _LastWords()


def make_careful(*names: str) -> None:
    """Make these loggers careful ones; modules that use them may be loaded later."""
    for name in names:
        found = logging.getLogger(name)
        # Not those of an application that has a logger class of its own.
        if type(found) is logging.Logger:
            found.__class__ = CarefulLogger


def fields(
    event: str,
    *,
    node: NodeName | str | None = None,
    peer: Peer | str | None = None,
    link: int | None = None,
    address: Address | None = None,
    certificate: object = None,
    error: BaseException | None = None,
    **others: object,
) -> dict[str, Any]:
    """Return the ``extra=`` of a log record. It never raises.

    All values are texts, numbers or booleans, so that they can be written as JSON. What
    is None is left out. Texts are cut and escaped, because peers choose some of them.

    Args:
        event: what has happened, in a word that stays the same. docs/logging.md lists
            all events.
        node: the name of this node.
        peer: the peer, or its name. A `Peer` also gives ``address`` and ``serial``.
        link: the number of the link, see `LinkProtocol.number`.
        address: host and port.
        certificate: gives ``serial``; a `Certificate` or an `x509.Certificate`.
        error: gives ``reason``, the name of its class. An error of fastnode also gives
            ``code`` and ``side``, and ``peer`` if the argument is None.
        others: further fields.
    """
    if isinstance(error, FastnodeError):
        peer = error.peer if peer is None else peer
        others["code"] = error.code
        others["side"] = getattr(error.side, "value", None)
    if error is not None:
        others["reason"] = _class_name(error)
    if isinstance(peer, Peer):
        address = peer.address if address is None else address
        certificate = peer.certificate if certificate is None else certificate
        peer = peer.name
    if address:
        others["address"] = joined(*address[:2])
    others["serial"] = _serial(certificate)
    given = {"event": event, "node": node, "peer": peer, "link": link, **others}
    return {
        name: value if isinstance(value, (int, float)) else escaped(_text(value))
        for name, value in given.items()
        if value is not None
    }


def escaped(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text in one line. Three dots stand for what comes after `most`
    characters."""
    if len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _class_name(value: object) -> str:
    # A metaclass of the user may have a `__name__` of its own.
    return str(type.__getattribute__(type(value), "__name__"))


def _serial(certificate: Any) -> str | None:
    """Return the serial number of a certificate in hexadecimal digits. As a number it
    would be too large for many readers of JSON."""
    with suppress(Exception):  # strangers write any number
        return f"{certificate.serial_number:x}"
    return None


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return _class_name(value)
