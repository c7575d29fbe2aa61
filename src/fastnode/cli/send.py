"""``fastnode send``, ``call`` and ``ping``: talk to a node once."""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from fastnode.cli.input import Input
from fastnode.cli.options import SECONDS, Identity, identity_options
from fastnode.cli.output import write_whole
from fastnode.errors import CallTimeout, ConfigError, LinkLost, MessageTooLarge, Side
from fastnode.groups import described_group

if TYPE_CHECKING:
    from fastnode.node.node import Node

__all__ = ["call", "ping", "send"]

Command = TypeVar("Command", bound=Callable[..., Any])

#: Input is sent in messages of this size, and a progress bar is shown above it.
CHUNK_BYTES = 1 << 20


def dial_options(command: Command) -> Command:
    """The options of a command that dials a node."""
    for option in (
        click.option(
            "--timeout",
            type=SECONDS,
            default=30.0,
            show_default=True,
            help="Seconds for all of it.",
        ),
        click.option("--route", help="HOST:PORT of the node.  [default: by its name]"),
        click.option(
            "--name", help="Name to verify in its certificate.  [default: its host]"
        ),
        click.option(
            "--as",
            "own_name",
            metavar="NAME@HOST",
            help="Who you are.  [default: the fastnode:// name in the certificate]",
        ),
        identity_options,
    ):
        command = option(command)
    return command


@click.command()
@click.argument("node")
@click.argument("endpoint")
@click.argument("file", type=click.File("rb"), default="-")
@dial_options
@click.option(
    "--chunk",
    type=click.IntRange(1, 64 << 20),
    default=CHUNK_BYTES,
    show_default=True,
    help="Bytes of a message; larger input becomes several messages.",
)
def send(node: str, endpoint: str, file: IO[bytes], chunk: int, **dial: Any) -> None:
    """Send FILE, or standard input, to ENDPOINT of NODE, one way.

    \b
    Example:  echo hello | fastnode send orders@127.0.0.1 print --dir certs \\
                  --as me@127.0.0.1
    """
    messages, size = _run(_send(node, endpoint, file, chunk, **dial), dial["timeout"])
    plural = "" if messages == 1 else "s"
    click.echo(f"{messages} message{plural}, {size} bytes sent to {node}", err=True)


@click.command()
@click.argument("node")
@click.argument("endpoint")
@click.argument("file", type=click.File("rb"), default="-")
@dial_options
def call(node: str, endpoint: str, file: IO[bytes], **dial: Any) -> None:
    """Call ENDPOINT of NODE with FILE, or standard input; print the reply.

    \b
    Example:  echo hello | fastnode call orders@127.0.0.1 echo --dir certs \\
                  --as me@127.0.0.1
    """
    reply = _run(_call(node, endpoint, file, **dial), dial["timeout"])
    write_whole(reply)


@click.command()
@click.argument("node")
@dial_options
@click.option("--count", type=click.IntRange(1), default=4, show_default=True)
def ping(node: str, count: int, **dial: Any) -> None:
    """Connect to NODE, show who it is, and measure round trips.

    \b
    Example:  fastnode ping orders@127.0.0.1 --dir certs --as me@127.0.0.1
    """
    _run(_ping(node, count, **dial), dial["timeout"])


def _run(main: Any, timeout: float) -> Any:
    from fastnode.node.runner import run

    # What a node would log of its one link is what the command says of it.
    logging.getLogger("fastnode").addHandler(logging.NullHandler())

    async def bounded() -> Any:
        try:
            async with asyncio.timeout(timeout) as scope:
                return await main
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise CallTimeout(
                f"not done within {timeout:g} s",
                timeout=timeout,
                side=Side.REMOTE,
                hint="--timeout",
            ) from error

    return run(bounded())


@asynccontextmanager
async def _dialer(
    node: str,
    identity: Identity,
    own_name: str | None,
    route: str | None,
    name: str | None,
) -> AsyncIterator[Node]:
    """A node that only dials, with a route to one other."""
    import re

    from fastnode import NetworkOptions, NodeOptions, Route, start_node

    routes = []
    if route is not None:
        host, _, port = route.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--route is {route!r}", hint="write it as HOST:PORT")
        routes.append(Route(f"^{re.escape(node)}$", host.strip("[]"), int(port)))
    options = NodeOptions(
        cert_manager=identity.manager(name),
        network=NetworkOptions(acceptors=(), routes=routes),
        shutdown_timeout=5.0,
    )
    async with await start_node(identity.node_name(own_name), options) as own:
        yield own


async def _send(
    node: str,
    endpoint: str,
    file: IO[bytes],
    chunk: int,
    *,
    identity: Identity,
    own_name: str | None,
    route: str | None,
    name: str | None,
    timeout: float,
) -> tuple[int, int]:
    source = Input(file)
    messages = size = 0
    async with _dialer(node, identity, own_name, route, name) as own:
        link = await own.connect(node)
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
                    break  # the end; a terminal would have to be told so once more
                data = await source.read(chunk)
                if data and advance is None:
                    advance = stack.enter_context(_progress(source.size))
        # A goodbye comes back only after everything before it was handled.
        await link.close(timeout=timeout)
        if isinstance(link.error, LinkLost):
            raise link.error
    return messages, size


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar, where standard error is a terminal; told how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda size: bar.update(task, completed=size)


async def _call(
    node: str,
    endpoint: str,
    file: IO[bytes],
    *,
    identity: Identity,
    own_name: str | None,
    route: str | None,
    name: str | None,
    timeout: float,
) -> bytes:
    from fastnode.limits import DEFAULT_MAX_MESSAGE_BYTES

    payload = await Input(file).read(DEFAULT_MAX_MESSAGE_BYTES + 1)
    if len(payload) > DEFAULT_MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the input has more than {DEFAULT_MAX_MESSAGE_BYTES} bytes",
            side=Side.LOCAL,
            hint="a call is one message; send it in parts",
        )
    async with _dialer(node, identity, own_name, route, name) as own:
        return await own.call(node, endpoint, payload, timeout=timeout)


async def _ping(
    node: str,
    count: int,
    *,
    identity: Identity,
    own_name: str | None,
    route: str | None,
    name: str | None,
    timeout: float,  # noqa: ARG001 - bounds all of it, in _run
) -> None:
    async with _dialer(node, identity, own_name, route, name) as own:
        link = await own.connect(node)
        peer = link.peer
        click.echo(f"{peer.name} at {peer.address[0]}:{peer.address[1]}")
        if peer.certificate is not None:
            click.echo(f"certificate  serial {peer.certificate.serial_number:x}")
        group = "" if peer.group is None else described_group(peer.group)
        click.echo(f"protocol     {peer.tls_version} {peer.cipher} {group}".rstrip())
        times = [await link.ping() for _ in range(count)]
        for number, seconds in enumerate(times, 1):
            click.echo(f"{number}: {seconds * 1e3:.3f} ms")
        click.echo(
            f"median {statistics.median(times) * 1e3:.3f} ms, "
            f"fastest {min(times) * 1e3:.3f} ms"
        )
