"""``fastnode health``: whether a node takes work, and whether its checks pass."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from fastnode.cli.dial import Dial, dial_options, run_dialer, time_limit
from fastnode.cli.exit_code import EXIT_FAILED
from fastnode.cli.output import printable
from fastnode.cli.records import json_option, print_record
from fastnode.cli.values import NODE_NAME
from fastnode.errors import NoSuchEndpoint, ProtocolError, Side

if TYPE_CHECKING:
    from fastnode.names import NodeName

__all__ = ["health"]

#: What a reply raises that is no health.
UNUSABLE = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


@click.command()
@click.argument("node", metavar="NODE", type=NODE_NAME)
@dial_options("The time for the whole command.")
@json_option("Print the health as one JSON object.")
@click.pass_context
def health(ctx: click.Context, node: NodeName, dial: Dial, *, as_json: bool) -> None:
    """Ask NODE whether it takes work, and whether its checks pass.

    The exit code is 0 if the node is ready and all its checks have passed, and 1 if
    not. It is made for probes that run a command, such as those of Kubernetes.

    \b
    Example:
      fastnode health orders@127.0.0.1 --dir certs --as me@127.0.0.1
    """
    told = run_dialer(_ask(dial, node))
    if as_json:
        print_record("health", **told)
    else:
        click.echo(f"{told['node']}: {printable(told['state'])}")
        for name, check in told["checks"].items():
            click.echo(f"  {printable(name)}: {printable(result(check))}")
    if not told["ok"]:
        ctx.exit(EXIT_FAILED)


def result(check: dict[str, Any]) -> str:
    """Return the result of a check in words."""
    if check["ok"] is None:
        return "not run yet"
    if not check["ok"]:
        return f"fails: {check['reason']}"
    seconds = check["seconds"]
    return "passes" if seconds is None else f"passes, {seconds * 1e3:.1f} ms"


async def _ask(dial: Dial, node: NodeName) -> dict[str, Any]:
    """Return what the node says about itself.

    Raises:
        ProtocolError: it says nothing that can be understood.
    """
    from fastnode.node.health import HEALTH_ENDPOINT

    name = str(node)
    async with time_limit(dial.timeout), dial.node(node) as own:
        try:
            reply = await own.call(name, HEALTH_ENDPOINT, b"", timeout=dial.timeout)
        except NoSuchEndpoint as error:
            raise _too_old(name) from error
    return understood(name, reply)


def understood(name: str, reply: bytes) -> dict[str, Any]:
    """Return the fields of a reply that this version knows, checked.

    Args:
        name: the node that was asked.
        reply: what it has replied. A peer may reply anything.

    Raises:
        ProtocolError: something is missing or has another type.
    """
    try:
        told = json.loads(reply)
        state, checks = told["state"], told["checks"]
        found = {
            "node": name,
            "instance": _text(told["instance"]),
            "state": _text(state),
            "ok": told["ok"] is True,
            "checks": {label: _check(check) for label, check in checks.items()},
        }
    except UNUSABLE as error:
        raise _too_old(name) from error
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _check(told: dict[str, Any]) -> dict[str, Any]:
    ok, reason, seconds = told["ok"], told["reason"], told["seconds"]
    if not isinstance(ok, bool | None):
        raise TypeError
    if seconds is not None:
        seconds = float(seconds)
        if not math.isfinite(seconds):
            raise ValueError
    return {
        "ok": ok,
        "reason": None if reason is None else _text(reason),
        "seconds": seconds,
    }


def _too_old(name: str) -> ProtocolError:
    return ProtocolError(
        f"{name} does not say how it is",
        peer=name,
        side=Side.REMOTE,
        hint="it runs a version of fastnode that does not know this command; "
        "'fastnode ping' tells whether it can be reached",
    )
