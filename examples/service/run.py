"""Three instances of a service, a gateway and a client, as processes on this machine.

Run: python examples/service/run.py

The certificates and the directory of the discovery are in a temporary folder. While
the client orders, one instance is replaced, and no order is lost. docs/services.md
explains services.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from certificates import make_certificates
from fastnode import run

HERE = Path(__file__).parent
INSTANCES = 3
#: Generous: a program starts in less than a second.
WAIT_SECONDS = 30.0


class Program:
    """One of the programs, in a process of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path, service: str) -> Program:
        """Start the program of a service."""
        environment = {
            **os.environ,
            "NODE_NAME": f"{service}@127.0.0.1",
            "CERTS": str(folder / service),
            "LISTEN": "127.0.0.1:0",
            "DISCOVERY": f"local:{folder / 'nodes'}",
            "BILLING_INSTANCES": str(INSTANCES),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / f"{service}.py"),
            stdout=PIPE,
            env=environment,
        )
        return cls(process)

    async def says(self, text: str) -> None:
        """Show the output, up to a line that has this text."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                print(line, end="", flush=True)
                if text in line:
                    return
        raise RuntimeError(f"a program ended before it said {text!r}")

    async def stop(self) -> int:
        """Stop the program as systemd and Kubernetes do. Return its exit code."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_SECONDS):
            print((await self._process.stdout.read()).decode(), end="", flush=True)
            return await self._process.wait()

    async def kill(self) -> None:
        """End the program, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def play(folder: Path, programs: list[Program]) -> None:
    """Start everything, replace an instance, and stop everything in order."""

    async def start(service: str) -> Program:
        program = await Program.start(folder, service)
        programs.append(program)
        return program

    gateway = await start("gateway")
    client = await start("client")
    instances = [await start("billing") for _ in range(INSTANCES)]
    for each in (*instances, gateway):
        await each.says("is ready")
    await client.says("orders all the time")

    # A rolling restart: the next instance is ready before the old one stops.
    instances.append(await start("billing"))
    await instances[-1].says("is ready")
    await client.says("a new instance took an order")
    codes = [await instances.pop(0).stop()]

    # Callers stop before the nodes that they call.
    codes += [await each.stop() for each in (client, gateway, *instances)]
    print(f"exit codes: {codes}")


async def main() -> None:
    """Make the certificates, and leave neither files nor processes behind."""
    programs: list[Program] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"{each}@127.0.0.1" for each in ("billing", "gateway", "client")]
        # Only the URI names the node. So a program cannot use the name of another
        # program on this host.
        make_certificates(folder, names, host=False)
        try:
            await play(folder, programs)
        finally:
            for each in programs:
                await each.kill()


if __name__ == "__main__":
    run(main())
