"""What the workers of tests run; and ``python -m helpers.group FOLDER``, a program that
serves with two of them. Orders are files in the folder."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import time
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
    folder: Path,
    setup: Any = None,
    *,
    workers: int = 2,
    start_timeout: float = 60.0,
    hang_timeout: float | None = None,
) -> WorkerGroup:
    """A group of two, on a free port."""
    return WorkerGroup(
        NAME,
        partial(make_options, folder),
        setup if setup is not None else partial(set_up, folder),
        workers=workers,
        start_timeout=start_timeout,
        hang_timeout=hang_timeout,
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
    # Nobody is served before this function has returned.
    assert node.health.state == "starting"
    mine = folder / f"kept-{os.getpid()}"

    def keep(message: Message) -> None:
        # At once: a worker that is killed has kept it too.
        with mine.open("ab") as file:
            file.write(message.payload + b"\n")

    async def stop(message: Message) -> bytes:
        await node.stop()
        return str(os.getpid()).encode()

    node.handler("who")(lambda message: str(os.getpid()).encode())
    node.handler("keep")(keep)
    node.handler("stop")(stop)


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


# --- children of workers ------------------------------------------------------------


def start_child(folder: Path, how: str) -> int:
    """Start a program, or fork, and leave the new process alone; returns its pid.

    It has the standard output of this process. The pid is in a file as well.
    """
    if how == "system":
        note = folder / f"started-by-{os.getpid()}"
        os.system(f"sleep 600 & echo $! > {note}")
        pid = int(note.read_text())
    elif how == "popen":
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
        child.returncode = 0  # no warning that it still runs
        pid = child.pid
    else:
        pid = os.fork()
        while pid == 0:
            time.sleep(600)
    (folder / f"child-{pid}").touch()
    return pid


def children(folder: Path) -> set[int]:
    """The pids of all that were started."""
    return {int(each.name.partition("-")[2]) for each in folder.glob("child-*")}


def set_up_with_children(folder: Path, node: Node) -> None:
    """As `set_up`, with handlers that start children and that never return."""
    set_up(folder, node)

    def start(message: Message) -> bytes:
        return str(start_child(folder, message.payload.decode())).encode()

    def block(message: Message) -> None:
        (folder / f"blocked-{os.getpid()}").touch()
        if message.payload == b"sleep":
            time.sleep(600)
        # This one does not let other threads run.
        re.match("(a+)+$", "a" * 64 + "b")

    node.handler("start")(start)
    node.handler("block")(block)


async def fork(folder: Path) -> None:
    """Start a group, fork, tell where it listens, and wait."""
    group = await make_group(folder, partial(set_up_and_clean, folder)).start()
    start_child(folder, "fork")
    print("listens on {}:{}".format(*group.addresses[0]), flush=True)
    await asyncio.Event().wait()


async def forget(folder: Path) -> None:
    """Start a group, tell its workers, and end without stopping it."""
    group = await make_group(folder).start()
    print(*(status.pid for status in group.status()), flush=True)
    raise LookupError("the program is wrong")


def main(folder: Path, options: Any = make_options, setup: Any = None) -> None:
    """Serve, and say where."""
    # Of the group itself: it says where it listens, and nothing else.
    loggers = logging.getLogger("fastnode.workers")
    logging.basicConfig(format="%(message)s")
    loggers.setLevel(logging.INFO)
    loggers.addFilter(lambda record: "listens" in record.msg or record.levelno > 20)
    serve(
        NAME,
        partial(options, folder),
        partial(setup or set_up_and_clean, folder),
        workers=2,
        shutdown_timeout=5.0,
    )


if __name__ == "__mp_main__" and sys.argv[2:] == ["children"]:
    # In a worker, before anything of fastnode runs.
    start_child(Path(sys.argv[1]), "system")
    start_child(Path(sys.argv[1]), "popen")
if __name__ == "__main__":
    match sys.argv[2:]:
        case ["forget"]:
            run(forget(Path(sys.argv[1])))
        case ["fork"]:
            run(fork(Path(sys.argv[1])))
        case ["children"]:
            main(Path(sys.argv[1]), make_options, set_up_with_children)
        case _:
            main(Path(sys.argv[1]))
