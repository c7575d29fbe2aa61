"""Text of the library and of peers, fit for a terminal."""

from __future__ import annotations

from typing import Final

__all__ = ["by_options", "printable"]

#: What the library says, and what it is called on a command line.
_OPTIONS: Final = (
    ("set server_name or a SAN", "give --name, or issue it with --dns or --ip"),
    ("this dialer's root_cas", "--ca"),
    ("give this node's cert manager a certificate", "give --cert and --key"),
)


def printable(text: str) -> str:
    """The text on one line; what would move the cursor or change colours is escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


def by_options(hint: str | None) -> str:
    """A hint in which options of the commands stand for settings of the library."""
    said = hint or ""
    for setting, option in _OPTIONS:
        said = said.replace(setting, option)
    return said
