"""What the workers of tests run; and ``python -m helpers.group FOLDER``, a program that
serves with two of them. Orders are files in the folder."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastnode import (
    AcceptorOptions,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    WorkerGroup,
    run,
    serve,
)
from helpers.child import manager_of

NAME = "orders@127.0.0.1"


def make_group(
    folder: Path, setup: Any = None, *, workers: int = 2, start_timeout: float = 60.0
) -> WorkerGroup:
    """A group of two, on a free port."""
    return WorkerGroup(
        NAME,
        partial(make_options, folder),
        setup if setup is not None else partial(set_up, folder),
        workers=workers,
        start_timeout=start_timeout,
        shutdown_timeout=5.0,
    )


def make_options(folder: Path, port: int = 0) -> NodeOptions:
    # A file changes what the next worker asks for.
    ports = 2 if (folder / "changed").exists() else 1
    network = NetworkOptions(
        acceptors=[AcceptorOptions(port=port, port_range=ports)],
        keepalive_interval=60.0,
    )
    return NodeOptions(cert_manager=manager_of(folder, NAME), network=network)


def set_up(folder: Path, node: Node) -> None:
    """Handlers that tell who they are, and keep what they get."""
    mine = folder / f"kept-{os.getpid()}"

    def keep(message: Message) -> None:
        # At once: a worker that is killed has kept it too.
        with mine.open("ab") as file:
            file.write(message.payload + b"\n")

    node.handler("who")(lambda message: str(os.getpid()).encode())
    node.handler("keep")(keep)


def kept(folder: Path) -> list[bytes]:
    """What all workers have kept."""
    return [
        line for each in folder.glob("kept-*") for line in each.read_bytes().split()
    ]


@asynccontextmanager
async def set_up_and_clean(folder: Path, node: Node) -> AsyncIterator[None]:
    """As `set_up`; tells when it is over."""
    set_up(folder, node)
    yield
    assert not node.links
    (folder / f"cleaned-{os.getpid()}").touch()


async def fail(folder: Path, node: Node) -> None:
    """A setup that raises, and counts."""
    (folder / f"failed-{os.getpid()}").touch()
    raise LookupError("no such database")


async def fail_if_told(folder: Path, node: Node) -> None:
    """Raises while there is a file ``broken``."""
    set_up(folder, node)
    if (folder / "broken").exists():
        raise LookupError("no such database")


async def hang(folder: Path, node: Node) -> None:
    """A setup that does not end."""
    await asyncio.Event().wait()


def end(folder: Path, node: Node) -> None:
    """A setup that ends the process."""
    os._exit(7)


async def forget(folder: Path) -> None:
    """Start a group, tell its workers, and end without stopping it."""
    group = await make_group(folder).start()
    print(*(status.pid for status in group.status()), flush=True)
    raise LookupError("the program is wrong")


def main(folder: Path) -> None:
    """Serve, and say where."""
    # Of the group itself: it says where it listens, and nothing else.
    loggers = logging.getLogger("fastnode.workers")
    logging.basicConfig(format="%(message)s")
    loggers.setLevel(logging.INFO)
    loggers.addFilter(lambda record: "listens" in record.msg or record.levelno > 20)
    serve(
        NAME,
        partial(make_options, folder),
        partial(set_up_and_clean, folder),
        workers=2,
        shutdown_timeout=5.0,
    )


if __name__ == "__main__":
    if sys.argv[2:] == ["forget"]:
        run(forget(Path(sys.argv[1])))
    main(Path(sys.argv[1]))
