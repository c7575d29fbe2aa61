"""`helpers.group` as a program, and its processes as the system sees them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from fastnode import NetworkOptions, Node, NodeOptions, Route, start_node
from fastnode.peer import Address
from helpers.child import manager_of, write_certificates
from helpers.group import NAME
from helpers.nodes import WAIT_SECONDS, until


class Program:
    """`helpers.group`, run by an interpreter of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        said = process.stdout.readline()
        host, _, port = said.rpartition(" ")[2].partition(":")
        self.address = host, int(port)
        self.said = ""

    async def end(self) -> int:
        """Wait for its end; the exit status."""
        await until(lambda: self.process.poll() is not None)
        assert self.process.stdout is not None
        self.said = self.process.stdout.read()
        return self.process.returncode


DIALERS = 8


def certificates_of_a_group(folder: Path) -> Path:
    """Write them for the group and for those who dial it."""
    write_certificates(folder, NAME, *map(dialer_name, range(DIALERS)))
    return folder


def dialer_name(number: int) -> str:
    return f"dialer{number}@127.0.0.1"


@asynccontextmanager
async def dialers(
    folder: Path, address: Address, count: int = DIALERS
) -> AsyncIterator[list[Node]]:
    """Nodes that know where the group is."""
    async with AsyncExitStack() as stack:
        nodes = []
        for name in map(dialer_name, range(count)):
            network = NetworkOptions(acceptors=(), routes=[Route("^orders@", *address)])
            options = NodeOptions(
                cert_manager=manager_of(folder, name),
                network=network,
                shutdown_timeout=5.0,
            )
            node = await start_node(name, options)
            nodes.append(await stack.enter_async_context(node))
        yield nodes


async def whom(nodes: list[Node]) -> list[int]:
    """The workers that they are linked with."""
    replies = [node.call(NAME, "who", b"", timeout=WAIT_SECONDS) for node in nodes]
    return [int(reply) for reply in await asyncio.gather(*replies)]


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `helpers.group`."""
    path = os.pathsep.join(map(str, sys.path))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "helpers.group", str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lives(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers_of(group: int) -> set[int]:
    """The workers that live, of the group in a process."""
    listed = Path(f"/proc/{group}/task/{group}/children").read_text()
    return {pid for pid in map(int, listed.split()) if lives(pid) and is_worker(pid)}


def is_worker(pid: int) -> bool:
    """No resource tracker, and no other child of the group's process."""
    try:
        return b"spawn_main(" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors(pid: int) -> set[int]:
    """What a process has open."""
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def inheritable(pid: int) -> dict[int, str]:
    """What programs that a process starts would get, beside the standard streams."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        number = int(entry.name)
        try:
            info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # it was closed since it was listed
        flags = int(info.partition("flags:")[2].split()[0], 8)
        if number > 2 and not flags & os.O_CLOEXEC:
            found[number] = target
    return found
