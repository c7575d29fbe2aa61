"""The README's commands, as printed: a rotation that everybody can see."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastnode import CertAuthManager, ClientAuth, NetworkOptions, NodeOptions
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from fastnode.node.node import start_node
from helpers.command import environment
from helpers.nodes import until
from integration.test_examples import README, block
from integration.test_succession import serial

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.0/8 is Linux's"),
    pytest.mark.one_loop,
]
TIMEOUT_SECONDS = 50.0
PYTHON = shlex.join([sys.executable, "-W", "error"])


def commands(name: str) -> list[str]:
    """The lines of a block of the README, without those that prepare the shell."""
    lines = block(README.split(f"<!-- command: {name} -->", 1)[1], "sh").splitlines()
    return [line for line in lines if line and not line.startswith(". ")]


class Shell:
    """Runs printed commands in a folder, on an address that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        # The port is the default one.
        self.host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.9"
        self.folder = folder

    def _words(self, line: str) -> str:
        line = line.replace("127.0.0.1", self.host)
        return re.sub(
            r"(^|\| )(\.venv/bin/)?fastnode ", rf"\1{PYTHON} -m fastnode ", line
        )

    async def start(self, line: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_shell(
            "exec " + self._words(line),
            cwd=self.folder,
            env={**environment(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(self, line: str) -> str:
        """Run a command to its end, and return what it prints."""
        process = await asyncio.create_subprocess_shell(
            self._words(line),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        assert process.returncode == 0, (line, err.decode())
        return out.decode()

    @asynccontextmanager
    async def listening(self, line: str) -> AsyncIterator[asyncio.StreamReader]:
        """A command that runs meanwhile, and its standard error."""
        process = await self.start(line)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_SECONDS)
            assert b" listening on " in said
            yield process.stderr
        finally:
            process.terminate()
            await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        assert process.returncode == 0


def shown(said: str) -> int:
    """The serial number that `ping` prints."""
    found = re.search(r"serial ([0-9a-f]+)", said)
    assert found, said
    return int(found[1], 16)


async def until_said(errors: asyncio.StreamReader, words: str) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while words not in (await errors.readline()).decode():
            assert not errors.at_eof()


async def test_the_readme_s_rotation_rotates(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    init, *issues = commands("first")[:3]
    issue, listen = commands("listen")
    await shell.run(init)
    await asyncio.gather(*map(shell.run, [*issues, issue]))
    orders = f"orders@{shell.host}"
    async with shell.listening(listen.partition("#")[0]) as errors:
        call, ping, check = commands("dial")
        replied, pinged, _ = await asyncio.gather(*map(shell.run, [call, ping, check]))
        assert replied == "hello\n"
        before = shown(pinged)
        # A link that is up all the time, of a node that does nothing for it.
        authority = Authority.load(tmp_path / "certs")
        name = NodeName.parse(f"late@{shell.host}")
        manager = CertAuthManager(
            authority.issue(name).certificate(),
            client_cas=authority.pool(),
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=authority.pool(),
        )
        network = NetworkOptions(acceptors=())
        options = NodeOptions(cert_manager=manager, network=network)
        async with await start_node(str(name), options) as node:
            assert serial(await node.connect(orders)) == before
            renew, ping = commands("rotation")
            await shell.run(renew)
            await until_said(errors, "certificate replaced")
            after = shown(await shell.run(ping))
            assert after != before
            await until(lambda: node.links and serial(node.links[0]) == after)
            assert await node.call(orders, "any", b"on", timeout=10.0) == b"on"


def test_the_commands_are_complete() -> None:
    """No printed command is left out above, should the README change."""
    assert [line.split()[:2] for line in commands("rotation")] == [
        ["fastnode", "ca"],
        ["fastnode", "ping"],
    ]
    assert len(commands("listen")) == 2
    assert len(commands("dial")) == 3
    assert os.linesep.join(commands("rotation")).count("orders@127.0.0.1") == 2
