"""``fastnode listen``: a node that prints what it receives."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

import click

from fastnode.cli.hints import by_options
from fastnode.cli.options import Identity, identity_options
from fastnode.cli.output import printable
from fastnode.cli.records import address, json_option, payload, print_record
from fastnode.cli.values import HOST, NODE_NAME
from fastnode.names import NodeName, joined

if TYPE_CHECKING:
    from fastnode.dispatch.message import Message

__all__ = ["listen"]

#: Bytes of a payload that are shown to people.
PREVIEW_BYTES = 60
#: Time for links to end in order, seconds.
SHUTDOWN_SECONDS = 5.0


class OneLine(logging.Formatter):
    """Formats each log message as one line, because a message may quote a peer. The
    hints in it name options of the command."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the message. The result is one line, and its hints name options."""
        return printable(by_options(super().formatMessage(record)))


class Lines:
    """What people read."""

    def listening(self, node: str, where: tuple[Any, ...]) -> None:
        """Print where the node listens."""
        click.echo(f"{node} listening on {joined(*where[:2])}")

    def message(self, message: Message) -> None:
        """Print a message, its payload shortened."""
        click.echo(
            f"{message.sender.name} -> {printable(message.endpoint)}: "
            f"{preview(message.payload)}"
        )

    def stopped(self, node: str) -> None:
        """Print nothing: standard error says that the node stops."""


class Records(Lines):
    """What programs read."""

    def listening(self, node: str, where: tuple[Any, ...]) -> None:
        """Print where the node listens."""
        print_record("listening", node=node, address=address(where))

    def message(self, message: Message) -> None:
        """Print a message with its whole payload."""
        print_record(
            "message",
            sender=message.sender.name,
            endpoint=message.endpoint,
            metadata=dict(message.metadata),
            **payload(message.payload),
        )

    def stopped(self, node: str) -> None:
        """Print that there will be no more lines."""
        print_record("stopped", node=node)


@click.command()
@click.argument("own", metavar="NAME@HOST", type=NODE_NAME)
@identity_options
@click.option("--host", type=HOST, help="The address to listen on.  [default: HOST]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=15000,
    show_default=True,
    metavar="PORT",
    help="The first port to try. 0 takes any free port.",
)
@click.option(
    "--echo", is_flag=True, help="Reply to each call with the payload of the call."
)
@click.option("--quiet", is_flag=True, help="Do not print messages.")
@json_option("Print one JSON object on each line.")
def listen(
    own: NodeName,
    identity: Identity,
    host: str | None,
    port: int,
    *,
    echo: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run the node NAME@HOST and print what it receives, until Ctrl-C.

    The node has every endpoint. It replies to calls with an empty payload, or with the
    payload of the call if --echo is given. When the files of its certificate change,
    they are read again, and links are renewed. Ctrl-C and SIGTERM stop the node in
    order: its links are drained and closed, and the exit code is 0. The log goes to
    standard error.

    \b
    Example:
      fastnode listen orders@127.0.0.1 --dir certs --echo
    """
    from fastnode.node.runner import run

    log = logging.StreamHandler()
    log.setFormatter(OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[log])
    shown = Records() if as_json else Lines()
    run(_listen(own, identity, host, port, shown, echo=echo, quiet=quiet))


async def _listen(
    own: NodeName,
    identity: Identity,
    host: str | None,
    port: int,
    shown: Lines,
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
    unread: BrokenPipeError | None = None
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    # The first line on standard output says the same.
    starts = logging.getLogger("fastnode.acceptor")
    starts.setLevel(logging.WARNING)
    async with await start_node(str(own), options) as node:
        starts.setLevel(logging.NOTSET)
        # A renewed pair is used within a second, also on links that are up.
        manager.watch(identity.cert, identity.key)

        @node.default_handler
        def show(message: Message) -> bytes:
            nonlocal unread
            if not quiet and unread is None:
                try:
                    shown.message(message)
                except BrokenPipeError as error:
                    unread = error
                    stopped.set()
            return message.payload if echo else b""

        shown.listening(node.name, node.acceptors[0].address)
        await stopped.wait()
        click.echo("stopping", err=True)
    if unread is not None:
        # Its errno tells the caller to drop the output that nobody reads.
        raise unread
    shown.stopped(str(own))


def preview(payload: bytes) -> str:
    """Return a payload on one line: text if it is UTF-8, else hexadecimal."""
    head = payload[:PREVIEW_BYTES]
    try:
        shown = printable(head.decode())
    except UnicodeDecodeError:
        shown = head.hex(" ")
    more = f" ... ({len(payload)} bytes)" if len(payload) > PREVIEW_BYTES else ""
    return shown + more
