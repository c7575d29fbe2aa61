"""No session is ever resumed: shown with openssl, which asks for it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from fastnode.names import NodeName
from helpers.nodes import WAIT_SECONDS, A, B, running
from helpers.pki import authority, manager

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl command is not installed"
)
VERSIONS = {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}


def s_client(address: tuple[str, int], folder: Path, *options: str) -> str:
    """What openssl s_client says of its connections."""
    host, port = address
    command = ["openssl", "s_client", "-connect", f"{host}:{port}"]
    command += ["-alpn", "fastnode/1", "-cert", str(folder / "cert.pem")]
    command += ["-key", str(folder / "key.pem"), *options]
    done = subprocess.run(
        command, input=b"", capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    return done.stdout.decode(errors="replace")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    issued = authority().issue(NodeName.parse(A))
    issued.save(tmp_path / "cert.pem", tmp_path / "key.pem")
    return tmp_path


@pytest.mark.parametrize("version", VERSIONS)
async def test_guarantee_6_reconnecting_is_a_full_handshake(
    folder: Path, version: str
) -> None:
    accepting = manager(B, minimum_version=ssl.TLSVersion.TLSv1_2)
    async with running(B, manager=accepting) as node:
        address = node.acceptors[0].address
        said = await asyncio.to_thread(
            s_client, address, folder, f"-{version}", "-reconnect"
        )
        assert said.count(f"New, {VERSIONS[version]}") >= 6, said
        assert "Reused" not in said
        assert node.acceptors[0].stats.connections >= 6


@pytest.mark.parametrize("version", VERSIONS)
async def test_guarantee_6_a_kept_session_is_worth_nothing(
    folder: Path, version: str
) -> None:
    kept = folder / "session.pem"
    accepting = manager(B, minimum_version=ssl.TLSVersion.TLSv1_2)
    async with running(B, manager=accepting) as node:
        address = node.acceptors[0].address
        first = await asyncio.to_thread(
            s_client, address, folder, f"-{version}", "-sess_out", str(kept)
        )
        assert f"New, {VERSIONS[version]}" in first
        assert "New Session Ticket arrived" not in first
        if version == "tls1_3":
            # There is no ticket, so openssl has nothing to keep.
            assert not kept.exists() or b"ticket" not in kept.read_bytes().lower()
        if kept.exists():
            again = await asyncio.to_thread(
                s_client, address, folder, f"-{version}", "-sess_in", str(kept)
            )
            assert f"New, {VERSIONS[version]}" in again
            assert "Reused" not in again
