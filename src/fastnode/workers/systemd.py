"""Tells systemd, or another service manager, how a program is: the protocol sd_notify.

How it works. A service manager that wants to be told puts the address of a Unix
datagram socket into the environment, as NOTIFY_SOCKET. The program sends lines of text
there: that it is ready, that it reads its files again, that it stops, and a status for
people. If WATCHDOG_USEC is set too, the program has to say within so many microseconds,
again and again, that it is alive. Half of that time is usual. The event loop says so,
because a program whose loop hangs is not alive. systemd then ends the program with
SIGABRT, and `faulthandler` writes the stacks of all threads to standard error.

Without NOTIFY_SOCKET nothing is sent.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from fastnode.log_limit import LogLimit
from fastnode.loggers import fields

__all__ = ["ServiceManager", "find_socket", "find_watchdog", "make_message"]

log = logging.getLogger("fastnode.workers")

#: How long the loop waits for room in the queue of the service manager. systemd empties
#: that queue within milliseconds, and a READY that was lost would end the service.
SEND_SECONDS = 0.5
#: What people read in one line of `systemctl status`.
STATUS_CHARACTERS = 200


class ServiceManager:
    """What has started this program, and wants to be told how it is.

    Args:
        environment: the environment of the program.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = find_socket(found)
        self._watchdog = find_watchdog(found, os.getpid())
        self._limit = LogLimit(log)
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ready = False

    def start(self) -> None:
        """Say from now on that the running loop is alive."""
        if self._address is None:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SEND_SECONDS)
        if self._watchdog is not None:
            if not faulthandler.is_enabled():
                # There may be no standard error.
                with suppress(AttributeError, OSError, RuntimeError, ValueError):
                    faulthandler.enable()
            self._alive(self._watchdog / 2)

    def close(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _alive(self, interval: float) -> None:
        self._send(WATCHDOG="1")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(interval, self._alive, interval)

    # --- what is said --------------------------------------------------------------

    def ready(self, status: str) -> None:
        """The program is ready."""
        self._ready = True
        self._send(READY="1", STATUS=status)

    def reloading(self, status: str) -> None:
        """The program reads its files again; `reloaded` has to follow."""
        if self._ready:
            microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send(RELOADING="1", MONOTONIC_USEC=str(microseconds), STATUS=status)

    def reloaded(self, status: str) -> None:
        """The program has read its files."""
        if self._ready:
            self._send(READY="1", STATUS=status)

    def stopping(self, status: str) -> None:
        """The program stops."""
        self._send(STOPPING="1", STATUS=status)

    def status(self, status: str) -> None:
        """Something that people want to know has changed."""
        self._send(STATUS=status)

    def _send(self, **fields: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto(make_message(fields), self._address)
        except OSError as error:
            self._limit.say(
                logging.WARNING,
                "notify",
                "the service manager was not told %s: %s",
                "=".join(next(iter(fields.items()))),
                error.strerror or error,
                event="service_manager_not_told",
                error=error,
            )


def find_socket(environment: Mapping[str, str]) -> str | None:
    """Return the address of the socket of the service manager, as `socket` takes it.

    None: there is no service manager that wants to be told, or it has a kind of address
    that is not supported.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if address.startswith("/"):
        return address
    if address.startswith("@") and len(address) > 1:
        return "\0" + address[1:]  # in the abstract namespace of Linux
    if address:
        log.warning(
            "NOTIFY_SOCKET is %r, which is not supported",
            address,
            extra=fields("service_manager_unknown", variable="NOTIFY_SOCKET"),
        )
    return None


def find_watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds within which the program has to say that it is alive.

    None: nobody wants to know, or this is not the process that was meant.
    """
    text = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", "")
    if not text or meant not in ("", str(pid)):
        return None
    # systemd writes a number of 64 bits.
    if not (text.isascii() and text.isdecimal() and 0 < len(text) <= 20 and int(text)):
        log.warning(
            "WATCHDOG_USEC is %r, no number of microseconds",
            text,
            extra=fields("service_manager_unknown", variable="WATCHDOG_USEC"),
        )
        return None
    return int(text) / 1e6


def make_message(fields: Mapping[str, str]) -> bytes:
    """Return fields as one datagram.

    A value stays within its line: it may quote what others have chosen.
    """
    lines = []
    for name, value in fields.items():
        line = " ".join(value.split())
        shown = line if line.isprintable() else repr(line)[1:-1]
        lines.append(f"{name}={shown[:STATUS_CHARACTERS]}")
    return "\n".join(lines).encode()
