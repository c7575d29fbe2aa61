"""``fastnode listen``: a node that prints what it receives."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import click

from fastnode.cli.options import Identity, identity_options
from fastnode.cli.output import printable

if TYPE_CHECKING:
    from fastnode.dispatch.message import Message

__all__ = ["listen"]

PREVIEW_BYTES = 60
#: As long as the other commands give the links that they end.
SHUTDOWN_SECONDS = 5.0


class OneLine(logging.Formatter):
    """A message may quote a peer: it is kept to its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """As `logging.Formatter` does it, but printable."""
        return printable(super().formatMessage(record))


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
    with its own payload. When the files of its certificate change, they are read again
    and links are renewed. Ctrl-C, or SIGTERM, stops it gracefully: links are ended in
    order, and the exit code is 0.

    \b
    Example:  fastnode listen orders@127.0.0.1 --dir certs --echo
    """
    from fastnode.node.runner import run

    log = logging.StreamHandler()
    log.setFormatter(OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[log])
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
    manager = identity.manager()
    options = NodeOptions(
        cert_manager=manager,
        network=network,
        renew_links="reconnect",
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    unread = False
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    # The line below says it on standard output.
    starts = logging.getLogger("fastnode.acceptor")
    starts.setLevel(logging.WARNING)
    async with await start_node(own, options) as node:
        starts.setLevel(logging.NOTSET)
        # A renewed pair is used within a second, also on links that are up.
        manager.watch(identity.cert, identity.key)

        @node.default_handler
        def show(message: Message) -> bytes:
            nonlocal unread
            if not quiet and not unread:
                line = (
                    f"{message.sender.name} -> {printable(message.endpoint)}: "
                    f"{preview(message.payload)}"
                )
                try:
                    click.echo(line)
                except BrokenPipeError:
                    unread = True
                    stopped.set()
            return message.payload if echo else b""

        address = node.acceptors[0].address
        click.echo(f"{node.name} listening on {address[0]}:{address[1]}")
        await stopped.wait()
        click.echo("stopping", err=True)
    if unread:
        raise BrokenPipeError


def preview(payload: bytes) -> str:
    """A payload on one line: text where it is text, else hexadecimal."""
    head = payload[:PREVIEW_BYTES]
    try:
        shown = printable(head.decode())
    except UnicodeDecodeError:
        shown = head.hex(" ")
    more = f" ... ({len(payload)} bytes)" if len(payload) > PREVIEW_BYTES else ""
    return shown + more
