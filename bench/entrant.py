"""A contender's entry: what is known of it before any of its code is loaded."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clients import Clients
    from contenders.contender import Contender


@dataclass(frozen=True)
class Entrant(ABC):
    """Who takes part, in what.

    Attributes:
        name: in tables and on the command line.
        about: one line on what it does.
        tags: "fastnode", "floor" or "rival"; which bars it belongs to; "memory" if it
            stands for others that hold the same.
        skips: groups of work in which it takes no part.
    """

    name: str
    about: str
    tags: frozenset[str] = frozenset()
    skips: frozenset[str] = frozenset()

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot take part here; None: it can."""

    @abstractmethod
    def server_command(self, folder: Path) -> list[str]:
        """What runs its server, with the certificates in `folder`."""

    @abstractmethod
    def clients(self, folder: Path) -> Clients:
        """A new client side."""

    @abstractmethod
    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that its client side runs on."""


@dataclass(frozen=True)
class PythonEntrant(Entrant):
    """One that is a `Contender`.

    Attributes:
        where: ``module:class``.
        requires: packages that have to be installed.
    """

    where: str = ""
    requires: tuple[str, ...] = ()

    def missing(self) -> str | None:
        for package in self.requires:
            if find_spec(package) is None:
                return f"{package} is not installed: pip install 'fastnode[bench]'"
        return self.kind().missing()

    def kind(self) -> type[Contender]:
        """Its class."""
        module, _, name = self.where.partition(":")
        found: type[Contender] = getattr(import_module(f"contenders.{module}"), name)
        return found

    def server_command(self, folder: Path) -> list[str]:
        script = Path(__file__).with_name("server.py")
        return [sys.executable, str(script), self.name, str(folder)]

    def clients(self, folder: Path) -> Clients:
        from clients import AsyncClients

        return AsyncClients(self.kind(), folder)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return self.kind().new_loop()
