"""``--json``: what a command found, for programs. docs/command.md has the schema.

A command whose results come one by one prints JSON Lines: one object in each line, and
its field ``event`` says what it is. Every value that the network brought is escaped by
JSON, so a line is always one line.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastnode.cli.hints import by_options
from fastnode.peer import Peer

if TYPE_CHECKING:
    from fastnode.errors import FastnodeError

__all__ = [
    "address",
    "error_record",
    "json_option",
    "payload",
    "print_record",
    "rounded",
    "wanted",
]

Command = TypeVar("Command", bound=Callable[..., Any])

#: The key under which click's context remembers ``--json``.
WANTED = "fastnode.json"


def json_option(help_text: str) -> Callable[[Command], Command]:
    """Add --json. The command gets it as `as_json`."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta[WANTED] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, help=help_text
    )


def wanted(ctx: click.Context) -> bool:
    """Whether the command that runs was given --json and prints JSON Lines."""
    return bool(ctx.meta.get(WANTED))


def print_record(event: str, **fields: Any) -> None:
    """Print one object on one line."""
    click.echo(json.dumps({"event": event, **fields}))


def address(pair: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of an address."""
    return {"host": pair[0], "port": pair[1]}


def rounded(seconds: float) -> float:
    """Return a time without digits below a nanosecond, which no clock tells."""
    return round(seconds, 9)


def payload(data: bytes) -> dict[str, Any]:
    """Return the fields of a payload: UTF-8 text where it is such text, else base64."""
    try:
        text, encoding = data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode(), "base64"
    return {"bytes": len(data), "payload": text, "encoding": encoding}


def error_record(error: FastnodeError, code: int) -> dict[str, Any]:
    """Return the fields of an error.

    Args:
        error: the error.
        code: the exit code of the command.
    """
    peer = error.peer
    return {
        "error": type(error).__name__,
        "code": error.code,
        "side": error.side.value if error.side is not None else None,
        "peer": peer.name if isinstance(peer, Peer) else peer,
        "message": by_options(error.summary),
        "hint": by_options(error.hint) or None,
        "begun": error.begun,
        "exit_code": code,
    }
