"""A real etcd on loopback, which the test kills, stops and starts again."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from helpers.nodes import WAIT_SECONDS

__all__ = ["EtcdServer", "make_cluster", "needs_etcd"]

ETCD = shutil.which("etcd")

needs_etcd = pytest.mark.skipif(ETCD is None, reason="needs etcd (Debian: etcd-server)")


def free_ports(number: int) -> list[int]:
    """Ports that are free; another program may take them meanwhile."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class EtcdServer:
    """One member of a cluster of etcd.

    Attributes:
        url: its endpoint.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        port: int,
        members: dict[str, int],
        options: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._port = port
        scheme = "https" if any("cert-file" in each for each in options) else "http"
        self.url = f"{scheme}://127.0.0.1:{port}"
        peers = {each: f"http://127.0.0.1:{at}" for each, at in members.items()}
        assert ETCD is not None
        self._command = [
            ETCD,
            f"--name={name}",
            f"--data-dir={folder / name}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peers[name]}",
            f"--initial-advertise-peer-urls={peers[name]}",
            "--initial-cluster=" + ",".join(f"{n}={u}" for n, u in peers.items()),
            # A leader within 0.1 s, and leases that may last for one second.
            "--heartbeat-interval=20",
            "--election-timeout=100",
            *options,
        ]
        self._data = folder / name
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start it, or start it again with the data that it had."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Wait until it serves clients."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._serves():
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.01)

    def _serves(self) -> bool:
        if self.url.startswith("https"):  # there is a port to connect to
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                return False
            return b"ready to serve client" in self._log.read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
        try:
            connection.request("GET", "/health")
            return b"true" in connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()

    def start(self) -> None:
        """Start it, and wait until it serves clients."""
        self.launch()
        self.wait()

    def kill(self) -> None:
        """SIGKILL; its data stay."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(WAIT_SECONDS)

    def lose_data(self) -> None:
        """Kill it, and remove what it has stored."""
        self.kill()
        shutil.rmtree(self._data)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def make_cluster(
    folder: Path, members: int = 1, options: Sequence[str] = ()
) -> Iterator[list[EtcdServer]]:
    """Members of a new cluster, which serve."""
    servers: list[EtcdServer] = []
    for attempt in range(3):
        # Another program may have taken one of the ports.
        with suppress(AssertionError) if attempt < 2 else nullcontext():
            inner = folder / f"cluster{attempt}"
            inner.mkdir()
            servers = _launch(inner, members, options)
            break
    try:
        yield servers
    finally:
        for each in servers:
            each.kill()


def _launch(folder: Path, members: int, options: Sequence[str]) -> list[EtcdServer]:
    ports = free_ports(2 * members)
    names = {f"m{n}": ports[members + n] for n in range(members)}
    servers = [
        EtcdServer(folder, name, port, names, options)
        for name, port in zip(names, ports, strict=False)
    ]
    try:
        for each in servers:
            each.launch()
        for each in servers:
            each.wait()
    except BaseException:
        for each in servers:
            each.kill()
        raise
    return servers
