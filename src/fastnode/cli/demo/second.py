"""The second process of the demo: a node that takes orders on standard input."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Peer,
    run,
    start_node,
)
from fastnode.cli.files import file_stem
from fastnode.cli.options import Identity
from fastnode.names import NodeName

SEQUENCE_BYTES = 8


class LogLines(logging.Handler):
    """Keeps what the acceptor says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


class Receiver:
    """Checks that numbered messages arrive complete and in order."""

    def __init__(self, node: Node) -> None:
        self.received = 0
        self.wrong = 0
        node.handler("numbered")(self.numbered)
        node.handler("count")(self.count)
        node.handler("echo")(self.echo)

    def numbered(self, message: Message) -> None:
        """A message that begins with its number."""
        if int.from_bytes(message.payload[:SEQUENCE_BYTES]) != self.received:
            self.wrong += 1
        self.received += 1

    def count(self, message: Message) -> bytes:  # noqa: ARG002
        """How many came, and how many out of order; begins anew."""
        answer = json.dumps([self.received, self.wrong]).encode()
        self.received = self.wrong = 0
        return answer

    def echo(self, message: Message) -> bytes:
        """What came."""
        return message.payload


def peers(node: Node) -> list[dict[str, Any]]:
    """Who this node believes its peers are."""
    return [described(link.peer) for link in node.links]


def described(peer: Peer) -> dict[str, Any]:
    """Who a peer is believed to be, and by which certificate."""
    shown = peer.certificate
    return {
        "name": peer.name,
        "verified": peer.verified,
        "subject": "" if shown is None else shown.subject.rfc4514_string(),
        "issuer": "" if shown is None else shown.issuer.rfc4514_string(),
        "serial": "" if shown is None else f"{shown.serial_number:x}",
        "tls": peer.tls_version,
        "cipher": peer.cipher,
        "group": peer.group,
    }


def stem_of(name: str) -> str:
    """Return what the names of the files of a node begin with."""
    return file_stem(NodeName.parse(name))


def identity(directory: Path, stem: str) -> Identity:
    """Return the files of one certificate."""
    return Identity(
        directory / f"{stem}.pem",
        directory / f"{stem}-key.pem",
        directory / "ca.pem",
    )


async def serve(directory: Path, name: str) -> None:
    """Run the node until standard input ends."""
    # Logging is shown in the steps, not on the terminal.
    logging.getLogger("fastnode").addHandler(logging.NullHandler())
    logging.getLogger("fastnode").propagate = False
    log = LogLines()
    logger = logging.getLogger("fastnode.acceptor")
    logger.addHandler(log)
    logger.propagate = False
    manager = identity(directory, stem_of(name)).manager()
    network = NetworkOptions(acceptors=[AcceptorOptions(port=0)])
    options = NodeOptions(cert_manager=manager, network=network, shutdown_timeout=5.0)
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(requests), sys.stdin
    )
    async with await start_node(name, options) as node:
        Receiver(node)
        say({"listening": node.acceptors[0].address})
        while line := await requests.readline():
            say(answer(json.loads(line), node, manager, directory, log))


def answer(
    request: dict[str, Any],
    node: Node,
    manager: CertAuthManager,
    directory: Path,
    log: LogLines,
) -> dict[str, Any]:
    """Do what was asked."""
    if request["request"] == "peers":
        return {"peers": peers(node)}
    if request["request"] == "rotate":
        new = identity(directory, request["stem"]).manager().certificate
        assert new is not None
        manager.update(new)
        return {"serial": f"{new.serial_number:x}"}
    if request["request"] == "log":
        lines, log.lines = log.lines, []
        return {"lines": lines, "refused": dict(node.acceptors[0].stats.refused)}
    return {"error": f"unknown request {request['request']!r}"}


def say(data: dict[str, Any]) -> None:
    """Answer with one line."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(serve(Path(sys.argv[1]), sys.argv[2]))
