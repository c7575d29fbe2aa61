"""Nodes of two versions of fastnode with each other: a named run.

    python tests/soak/versions.py                     the last commit without EXTENSIONS
    python tests/soak/versions.py COMMIT              another older commit
    python tests/soak/versions.py --old OLD/bin/python --new NEW/bin/python

The run builds a wheel of the older commit and one of the working tree, and installs
each in an environment of its own. With `--old` and `--new` it takes interpreters that
have these versions. Then a node of one version dials a node of the other version, with
mutual TLS and real certificates, and the two roles change. The dialing process checks
messages, calls, confirmed messages, large payloads, errors, timeouts, metadata, calls
back, replaced links, keepalive and the end of links. Both processes collect what is
logged as a warning or an error; every such line must be expected. Last, both nodes are
of the new version, which shows that the checks see metadata where it must arrive.

Prints a table. Ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
import venv
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnode import Link, Message, Node

ROOT = Path(__file__).parents[2]
#: The last commit before HELLO had the feature EXTENSIONS.
OLD_COMMIT = "8ad0b46"
SERVER, CLIENT = "server@127.0.0.1", "client@127.0.0.1"
#: No single wait is longer.
WAIT_SECONDS = 30.0
#: Short, so that a few idle seconds need several probes.
KEEPALIVE_SECONDS = 0.3
LARGE_BYTES = 5_000_000
MESSAGES = 3000
#: What a node logs, once for each link, that leaves metadata out.
NO_METADATA = "takes no metadata"
METADATA = {"trace-id": "abc", "tenant": "größe"}
#: Warnings and errors that the checks provoke, in either version.
EXPECTED = ("provoked", "nobody", NO_METADATA)


# --- either process ------------------------------------------------------------------


class Lines(logging.Handler):
    """Collects what is logged as a warning or an error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.texts: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def unexpected(self) -> list[str]:
        """Lines that no check has provoked."""
        return [
            text for text in self.texts if not any(words in text for words in EXPECTED)
        ]


async def start(folder: Path, name: str, **network: Any) -> Node:
    """A node with certificates from the folder."""
    from fastnode import (
        CertAuthManager,
        Certificate,
        CertPool,
        ClientAuth,
        NetworkOptions,
        NodeOptions,
        start_node,
    )

    pool = CertPool.load(folder / "ca.pem")
    manager = CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    options = NetworkOptions(keepalive_interval=KEEPALIVE_SECONDS, **network)
    return await start_node(name, NodeOptions(cert_manager=manager, network=options))


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate for each node, as files."""
    from fastnode.certs.authority import Authority
    from fastnode.names import NodeName

    authority = Authority.create("versions CA")
    authority.save(folder)
    for name in (SERVER, CLIENT):
        issued = authority.issue(NodeName.parse(name))
        issued.save(folder / f"{name}.pem", folder / f"{name}-key.pem")


def knows_metadata() -> bool:
    """Whether this process runs a version with metadata."""
    from fastnode import Message

    return hasattr(Message, "metadata")


# --- the process that is dialed ------------------------------------------------------


class Server:
    """The endpoints, and what they saw."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stopping = asyncio.Event()
        self.numbers: list[int] = []
        self.sums: list[int] = []
        self.metadata: list[dict[str, str]] = []
        self.deadlines = 0
        self.cancelled = 0
        self.moves: list[str] = []
        self.links: list[Link] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        """Register the endpoints."""
        self.serve_messages()
        self.serve_errors()
        self.serve_commands()

    def serve_messages(self) -> None:
        handler = self.node.handler

        @handler("echo")
        def echo(message: Message) -> Any:
            self.note(message)
            if not knows_metadata():
                return message.payload
            from fastnode import Reply

            return Reply(message.payload, METADATA)

        @handler("number")
        def number(message: Message) -> None:
            self.note(message)
            self.numbers.append(int(message.payload))

        @handler("large")
        def large(message: Message) -> None:
            self.note(message)
            self.sums.append(zlib.crc32(message.payload))

        @handler("back")
        async def back(message: Message) -> bytes:
            more: dict[str, Any] = {"metadata": METADATA} if knows_metadata() else {}
            return await self.node.call(
                message.sender.name, "echo", message.payload, timeout=10.0, **more
            )

    def serve_errors(self) -> None:
        handler = self.node.handler

        @handler("fail")
        def fail(message: Message) -> bytes:
            raise ValueError("provoked")

        @handler("refuse")
        def refuse(message: Message) -> bytes:
            if not knows_metadata():
                raise ValueError("provoked: out_of_stock")
            from fastnode import CallError

            raise CallError("out_of_stock", "provoked", details=b"3 left")

        @handler("stuck")
        async def stuck(message: Message) -> None:
            self.note(message)
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1

    def serve_commands(self) -> None:
        handler = self.node.handler

        @handler("move")
        async def move(message: Message) -> None:
            # Not in the handler: the old link ends only when its handlers have ended.
            task = asyncio.get_running_loop().create_task(self.move(message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        @handler("seen")
        def seen(message: Message) -> bytes:
            self.note(message)
            return json.dumps(self.report()).encode()

        @handler("stop")
        def stop(message: Message) -> None:
            self.stopping.set()

    def note(self, message: Message) -> None:
        """Keep the metadata of a message, and the links that there are."""
        metadata = getattr(message, "metadata", None)
        if metadata:
            self.metadata.append(dict(metadata))
        self.deadlines += getattr(message, "deadline", None) is not None
        self.links += [link for link in self.node.links if link not in self.links]

    async def move(self, message: Message) -> None:
        """Have the client dial a link that replaces the one that there is."""
        try:
            await self.node.reconnect(message.sender.name, timeout=WAIT_SECONDS)
        except Exception as error:
            self.moves.append(repr(error))
        else:
            self.moves.append("")

    def report(self) -> dict[str, Any]:
        """What the client asks for."""
        return {
            "metadata_known": knows_metadata(),
            "numbers": len(self.numbers),
            "in_order": self.numbers == list(range(len(self.numbers))),
            "sums": self.sums,
            "metadata": self.metadata,
            "deadlines": self.deadlines,
            "cancelled": self.cancelled,
            "moves": self.moves,
            "ended": [type(link.error).__name__ for link in self.links if link.closed],
        }


async def serve(folder: Path) -> None:
    """The process that is dialed. Prints where it listens, and last what it logged."""
    from fastnode import AcceptorOptions

    lines = Lines()
    acceptors = [AcceptorOptions(host="127.0.0.1", port=0)]
    node = await start(folder, SERVER, acceptors=acceptors)
    server = Server(node)
    server.serve()
    say(address=node.acceptors[0].address[:2])
    await server.stopping.wait()
    await node.stop()
    say(ended=server.report()["ended"], lines=lines.unexpected())


def say(**what: Any) -> None:
    """Tell the process that started this one."""
    print(json.dumps(what), flush=True)


# --- the process that dials ----------------------------------------------------------


class Client:
    """The checks. Each is a method; what it returns is shown in the table."""

    def __init__(self, node: Node, lines: Lines) -> None:
        self.node = node
        self.lines = lines
        self.link: Link
        #: Both versions have EXTENSIONS.
        self.both = False

    async def seen(self) -> Any:
        """What the server has seen so far."""
        return json.loads(await self.node.call(SERVER, "seen", b"", timeout=10.0))

    async def until(self, is_so: Callable[[Any], bool]) -> Any:
        """Ask the server until what it has seen is as it must be."""
        ends = time.monotonic() + WAIT_SECONDS
        while not is_so(seen := await self.seen()):
            if time.monotonic() > ends:
                raise AssertionError(f"it does not come: {seen}")
            await asyncio.sleep(0.05)
        return seen

    async def connect(self) -> str:
        self.link = await self.node.connect(SERVER)
        self.both = knows_metadata() and (await self.seen())["metadata_known"]
        return "EXTENSIONS in effect" if self.both else "EXTENSIONS not in effect"

    async def messages(self) -> str:
        for number in range(MESSAGES):
            self.link.send("number", b"%d" % number)
        await self.link.drain()
        seen = await self.until(lambda seen: seen["numbers"] == MESSAGES)
        assert seen["in_order"]
        return f"{MESSAGES} in order"

    async def calls(self) -> str:
        payloads = [bytes([size % 251]) * size for size in (0, 1, 1000, 20_000)]
        for payload in payloads:
            assert await self.link.call("echo", payload, timeout=10.0) == payload
            high = self.link.call("echo", payload, timeout=10.0, priority="high")
            assert await high == payload
        every = [self.link.call("echo", b"%d" % number) for number in range(500)]
        found = await asyncio.gather(*every)
        assert found == [b"%d" % number for number in range(500)]
        return "500 at once, four sizes, both priorities"

    async def confirmed(self) -> str:
        await self.link.send_confirmed("echo", b"x", timeout=10.0)
        await self.link.send_confirmed("large", b"confirmed", timeout=10.0)
        assert (await self.seen())["sums"][-1] == zlib.crc32(b"confirmed")
        return ""

    async def large(self) -> str:
        payload = bytes(range(250)) * (LARGE_BYTES // 250)
        self.link.send("large", payload)
        assert await self.link.call("echo", payload, timeout=WAIT_SECONDS) == payload
        await self.until(lambda seen: seen["sums"][-1] == zlib.crc32(payload))
        return f"{LARGE_BYTES} bytes, both ways"

    async def errors(self) -> str:
        from fastnode import MessageTooLarge, NoSuchEndpoint, RemoteError

        text = await self.fails(RemoteError, self.link.call("fail", b"", timeout=10.0))
        assert "ValueError" in text, text
        assert "provoked" in text, text
        text = await self.fails(RemoteError, self.link.call("refuse", b""))
        assert "provoked" in text, text
        assert "out_of_stock" in text or self.both, text
        for wait in (
            self.link.call("nobody", b"", timeout=10.0),
            self.link.send_confirmed("nobody", b"", timeout=10.0),
        ):
            text = await self.fails(NoSuchEndpoint, wait)
            assert "nobody" in text, text
        await self.fails(MessageTooLarge, self.link.call("echo", bytes((64 << 20) + 1)))
        return "a handler's, none of that name, too large"

    async def fails(self, kind: type[Exception], wait: Awaitable[object]) -> str:
        """The text of an error that has to come."""
        try:
            await wait
        except kind as error:
            return str(error)
        raise AssertionError(f"no {kind.__name__}")

    async def timeouts(self) -> str:
        from fastnode import CallTimeout

        before = await self.seen()
        await self.fails(CallTimeout, self.link.call("stuck", b"", timeout=0.2))
        seen = await self.until(lambda seen: seen["cancelled"] > before["cancelled"])
        assert (seen["deadlines"] > before["deadlines"]) == self.both
        # Infinite, and longer than a number of the wire can say.
        for timeout in (1e14, float("inf")):
            assert await self.link.call("echo", b"x", timeout=timeout) == b"x"
        return "the handler was cancelled"

    async def dropped(self) -> str:
        for _ in range(100):
            self.link.send("nobody", b"")
        await self.link.ping()
        if not knows_metadata():
            return "not known in this version"
        ends = time.monotonic() + WAIT_SECONDS
        while self.both and self.link.stats.messages_dropped_by_peer < 100:
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
        found = self.link.stats.messages_dropped_by_peer
        assert found == (100 if self.both else 0)
        return f"{found} told"

    async def metadata(self) -> str:
        if not knows_metadata():
            return "not known in this version"
        link = self.link
        before = await self.seen()
        reply = await link.request("echo", b"1", metadata=METADATA, timeout=10.0)
        assert reply.payload == b"1"
        assert dict(reply.metadata) == (METADATA if self.both else {})
        assert await link.call("echo", b"2", metadata=METADATA) == b"2"
        await link.send_confirmed("echo", b"3", metadata=METADATA)
        link.send("echo", b"4", metadata=METADATA)
        await link.ping()
        found = (await self.seen())["metadata"][len(before["metadata"]) :]
        said = sum(NO_METADATA in text for text in self.lines.texts)
        if self.both:
            assert found == [METADATA] * 4, found
            assert said == 0
            return "arrived"
        assert not found
        assert said == 1, self.lines.texts
        return "left out, one warning"

    async def back(self) -> str:
        payload = bytes(100_000)
        found = await self.link.call("back", payload, timeout=10.0)
        assert found == payload
        return "the handler called this node"

    async def idle(self) -> str:
        await asyncio.sleep(6 * KEEPALIVE_SECONDS)
        assert not self.link.closed
        return f"{6 * KEEPALIVE_SECONDS:g} s, keepalive {KEEPALIVE_SECONDS:g} s"

    async def replaced(self) -> str:
        begin: int = (await self.seen())["numbers"]
        sending = True

        async def send() -> int:
            number = begin
            while sending:
                await self.node.send(SERVER, "number", b"%d" % number)
                number += 1
                await asyncio.sleep(0 if number % 10 else 0.001)
            return number

        sender = asyncio.get_running_loop().create_task(send())
        for _ in range(3):
            old = await self.node.connect(SERVER)
            await self.node.reconnect(SERVER, timeout=WAIT_SECONDS)
            assert await self.node.connect(SERVER) is not old
        for moves in range(1, 4):
            old = await self.node.connect(SERVER)
            await self.node.send(SERVER, "move", b"")
            seen = await self.until(lambda seen: len(seen["moves"]) >= moves)  # noqa: B023
            assert seen["moves"] == [""] * moves, seen["moves"]
            assert await self.node.connect(SERVER) is not old
        sending = False
        count = await sender
        seen = await self.until(lambda seen: seen["numbers"] == count)
        assert seen["in_order"]
        assert set(seen["ended"]) == {"LinkClosed"}, seen["ended"]
        self.link = await self.node.connect(SERVER)
        return f"6 times, {count - begin} messages meanwhile"

    async def closed(self) -> str:
        from fastnode import LinkClosed

        # What is queued and under way comes first.
        waiting = asyncio.ensure_future(self.link.call("echo", bytes(200_000)))
        await asyncio.sleep(0)
        await self.link.close()
        assert await waiting == bytes(200_000)
        assert type(self.link.error) is LinkClosed, self.link.error
        seen = await self.seen()
        assert set(seen["ended"]) == {"LinkClosed"}, seen["ended"]
        return "in order"

    async def stopped(self) -> str:
        from fastnode import LinkClosed

        link = await self.node.connect(SERVER)
        link.send("stop", b"")
        await link.wait_closed()
        assert type(link.error) is LinkClosed, link.error
        return "the server stopped: in order"


CHECKS = (
    "connect", "messages", "calls", "confirmed", "large", "errors", "timeouts",
    "dropped", "metadata", "back", "idle", "replaced", "closed", "stopped",
)  # fmt: skip


async def dial(folder: Path, host: str, port: int) -> None:
    """The process that dials. Prints a line for each check."""
    from fastnode import Route

    lines = Lines()
    async with await start(folder, CLIENT, acceptors=()) as node:
        node.add_route(Route("^server@", host, port))

        @node.handler("echo")
        def echo(message: Message) -> bytes:
            return message.payload

        client = Client(node, lines)
        for name in CHECKS:
            try:
                async with asyncio.timeout(4 * WAIT_SECONDS):
                    text = await getattr(client, name)()
            except BaseException as error:
                say(check=name, error=f"{type(error).__name__}: {error}")
                raise
            say(check=name, text=text)
    say(lines=lines.unexpected())


# --- the process that starts both ----------------------------------------------------


def environment(folder: Path, name: str, source: Path) -> str:
    """Build a wheel of a source tree, install it, and return its interpreter."""
    home = folder / name
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / f"{name}-wheel"
    command = [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", str(wheel)], check=True)
    return python


def export(folder: Path, commit: str | None) -> Path:
    """Copy the files of a commit, or those of the working tree, to a folder."""
    target = folder / (commit or "working-tree")
    target.mkdir()
    if commit is not None:
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
    else:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip
        names = b"\0".join(
            name
            for name in listed.split(b"\0")
            if name and (ROOT / name.decode()).is_file()
        )
        archive = subprocess.run(
            ["tar", "-c", "--null", "--files-from=-"],
            cwd=ROOT, check=True, input=names, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip
    subprocess.run(["tar", "-x"], cwd=target, check=True, input=archive)
    return target


def together(folder: Path, server: str, client: str) -> tuple[list[list[str]], bool]:
    """Run the checks between two interpreters: rows of the table, and whether all is
    well."""
    script = str(Path(__file__).resolve())
    rows: list[list[str]] = []
    good = True
    with subprocess.Popen(
        [server, script, "--role", "server", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as serving:
        try:
            assert serving.stdout is not None
            host, port = json.loads(serving.stdout.readline())["address"]
            dialing = subprocess.run(
                [client, script, "--role", "client", str(folder), host, str(port)],
                stdout=subprocess.PIPE, text=True, check=False,
                timeout=20 * WAIT_SECONDS,
            )  # fmt: skip
            said = [json.loads(line) for line in dialing.stdout.splitlines()]
            if dialing.returncode == 0:
                serving.wait(WAIT_SECONDS)
                said += [json.loads(line) for line in serving.stdout]
        finally:
            serving.kill()
    good = dialing.returncode == 0 and serving.returncode == 0
    for each in said:
        if "check" in each:
            rows.append([each["check"], each.get("error") or each["text"]])
        for line in each.get("lines", ()):
            good = False
            rows.append(["unexpected log line", line])
        for error in each.get("ended", ()):
            if error != "LinkClosed":
                good = False
                rows.append(["a link of the server ended with", error])
    return rows, good


def main() -> int:
    """Build both versions, and bring them together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", nargs="?", default=OLD_COMMIT, help="the older one")
    parser.add_argument("--old", metavar="PYTHON", help="has the older version")
    parser.add_argument("--new", metavar="PYTHON", help="has the newer version")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        old = options.old or environment(folder, "old", export(folder, options.commit))
        new = options.new or environment(folder, "new", export(folder, None))
        script = str(Path(__file__).resolve())
        subprocess.run([new, script, "--role", "certificates", text], check=True)
        versions = {"old": old, "new": new}
        for dials, serves in (("old", "new"), ("new", "old"), ("new", "new")):
            rows, well = together(folder, versions[serves], versions[dials])
            print(f"\n{dials} dials {serves}: {'good' if well else 'WRONG'}")
            for name, found in rows:
                print(f"  {name:<12} {found}")
            good = good and well
    return 0 if good else 1


def play(role: str, folder: Path, *address: str) -> None:
    """What a process does that `main` has started."""
    if role == "certificates":
        return make_certificates(folder)
    from fastnode import run

    if role == "server":
        return run(serve(folder))
    host, port = address
    return run(dial(folder, host, int(port)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        play(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
    else:
        sys.exit(main())
