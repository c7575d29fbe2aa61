"""``fastnode send``: send input to an endpoint, one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import click

from fastnode.cli.dial import Dial, dial_options, run_dialer, time_limit
from fastnode.cli.input import Input
from fastnode.cli.records import json_option, print_record
from fastnode.cli.values import NODE_NAME
from fastnode.errors import LinkLost
from fastnode.names import NodeName

__all__ = ["send"]

#: Input is sent in messages of this size. Larger input gets a progress bar.
CHUNK_BYTES = 1 << 20


@click.command()
@click.argument("node", metavar="NODE", type=NODE_NAME)
@click.argument("endpoint")
@click.argument("file", type=click.File("rb"), default="-")
@dial_options("The time for the whole command.")
@click.option(
    "--chunk",
    type=click.IntRange(1, 64 << 20),
    default=CHUNK_BYTES,
    show_default=True,
    metavar="BYTES",
    help="The size of a message. Larger input becomes several messages.",
)
@json_option("Print one JSON object when all is sent.")
def send(
    node: NodeName,
    endpoint: str,
    file: IO[bytes],
    chunk: int,
    dial: Dial,
    *,
    as_json: bool,
) -> None:
    """Send FILE, or standard input, to ENDPOINT of NODE, one way.

    The command ends when the node has received everything.

    \b
    Example:
      echo hello | fastnode send orders@127.0.0.1 print --dir certs \\
          --as me@127.0.0.1
    """
    messages, size = run_dialer(_send(dial, node, endpoint, file, chunk))
    if as_json:
        counts = {"messages": messages, "bytes": size}
        print_record("sent", node=str(node), endpoint=endpoint, **counts)
    else:
        plural = "" if messages == 1 else "s"
        click.echo(f"{messages} message{plural}, {size} bytes sent to {node}", err=True)


async def _send(
    dial: Dial, node: NodeName, endpoint: str, file: IO[bytes], chunk: int
) -> tuple[int, int]:
    """Return how many messages and bytes were sent."""
    source = Input(file)
    messages = size = 0
    async with time_limit(dial.timeout), dial.node(node) as own:
        link = await own.connect(str(node))
        with ExitStack() as stack:
            advance: Callable[[int], object] | None = None
            data = await source.read(chunk)
            while data or not messages:
                link.send(endpoint, data)
                await link.drain()
                messages += 1
                size += len(data)
                if advance is not None:
                    advance(size)
                if len(data) < chunk:
                    # This is the end of the input. A terminal would wait for a second
                    # end if it was read again.
                    break
                data = await source.read(chunk)
                if data and advance is None:
                    advance = stack.enter_context(_progress(source.size))
        # A goodbye comes back only after everything before it was handled.
        await link.close(timeout=dial.timeout)
        if isinstance(link.error, LinkLost):
            raise link.error
    return messages, size


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a progress bar if standard error is a terminal.

    Args:
        total: bytes in all, or None if this is not known.

    Yields:
        A function to call with the number of bytes that are sent.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda size: bar.update(task, completed=size)
