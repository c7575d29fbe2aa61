"""Connections a second: TCP, mutual TLS, 8 bytes there and back, close.

No session is resumed. fastnode also exchanges HELLO and ACCEPT, verifies names, and
says goodbye; its clients are as many nodes, since two nodes share one link.
"""

from __future__ import annotations

from pathlib import Path

from cell import Cell, Figures
from clients import Clients
from contenders import ENTRANTS
from process import ServerProcess
from work.work import Pace, Work, in_processes, timed


class Handshakes(Work):
    """So many at once, again and again."""

    def __init__(self, at_once: int, pace: Pace) -> None:
        title = f"handshakes, {at_once} at once"
        super().__init__(Cell("handshakes", title, "handshakes"), pace)
        self.at_once = at_once

    def turn(self, name: str, folder: Path) -> Figures:
        async def body(clients: Clients, process: ServerProcess) -> Figures:
            async def connect(count: int) -> None:
                await clients.handshakes(process.port, self.at_once, count)

            await connect(self.at_once)
            count = max(self.pace.connections, self.at_once)
            return await timed(clients, process, connect, count)

        return in_processes(ENTRANTS[name], folder, body)


def works(pace: Pace) -> list[Work]:
    """Alone and in a crowd."""
    return [Handshakes(at_once, pace) for at_once in (1, 32)]
