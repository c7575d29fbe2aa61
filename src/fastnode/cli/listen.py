"""``fastnode listen``: a node that prints what it receives."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import click

from fastnode.cli.identity import Identity, identity_options

if TYPE_CHECKING:
    from fastnode.link.message import Message

__all__ = ["listen"]

PREVIEW_BYTES = 60


@click.command()
@click.argument("own", metavar="NAME@HOST")
@identity_options
@click.option("--host", help="Address to listen on.  [default: HOST]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=15000,
    show_default=True,
    help="First port to try; 0 takes any free one.",
)
@click.option("--echo", is_flag=True, help="Answer calls with what they brought.")
@click.option("--quiet", is_flag=True, help="Do not print messages.")
def listen(
    own: str,
    identity: Identity,
    host: str | None,
    port: int,
    *,
    echo: bool,
    quiet: bool,
) -> None:
    """Run the node NAME@HOST and print what it receives, until Ctrl-C.

    Every endpoint is taken. A call is answered with an empty reply, or with --echo
    with its own payload.

    \b
    Example:  fastnode listen orders@127.0.0.1 --dir certs --echo
    """
    from fastnode.node.runner import run

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    run(_listen(own, identity, host, port, echo=echo, quiet=quiet))


async def _listen(
    own: str,
    identity: Identity,
    host: str | None,
    port: int,
    *,
    echo: bool,
    quiet: bool,
) -> None:
    from fastnode import AcceptorOptions, NetworkOptions, NodeOptions, start_node

    network = NetworkOptions(acceptors=[AcceptorOptions(host=host, port=port)])
    options = NodeOptions(cert_manager=identity.manager(), network=network)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with await start_node(own, options) as node:

        @node.default_handler
        def show(message: Message) -> bytes:
            if not quiet:
                click.echo(
                    f"{message.sender.name} -> {message.endpoint}: "
                    f"{preview(message.payload)}"
                )
            return message.payload if echo else b""

        address = node.acceptors[0].address
        click.echo(f"{node.name} listening on {address[0]}:{address[1]}")
        await stopped.wait()
        click.echo("stopping", err=True)


def preview(payload: bytes) -> str:
    """A payload on one line: text where it is text, else hexadecimal."""
    head = payload[:PREVIEW_BYTES]
    try:
        text = head.decode()
        shown = text if text.isprintable() else repr(text)[1:-1]
    except UnicodeDecodeError:
        shown = head.hex(" ")
    more = f" ... ({len(payload)} bytes)" if len(payload) > PREVIEW_BYTES else ""
    return shown + more
