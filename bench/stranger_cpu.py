"""What a stranger can make a node compute: CPU per connection and per KiB.

    python bench/stranger_cpu.py                # the table of docs/reliability.md
    python bench/stranger_cpu.py --only RSA --connections 50
    python bench/stranger_cpu.py --clock 10     # a known peer beside 100 strangers/s

The node runs in a process of its own, and tells its CPU time. Strangers come one after
the other. Their messages are made by the helpers of the tests, in tests/helpers.

With ``--clock`` a known peer calls the node every 5 ms, and a good peer connects twice
a second: first alone, and then beside strangers who send a recorded key share of
ffdhe8192. Percentiles are of the clock, so they need a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

import trust  # noqa: E402
from fastnode import (  # noqa: E402
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    FastnodeError,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    run,
    start_node,
)
from fastnode.certs.authority import Authority  # noqa: E402
from fastnode.names import NodeName  # noqa: E402
from helpers import heavy, hellos  # noqa: E402
from helpers.forge import KEY_UPDATE, Traffic, traffic_secret  # noqa: E402
from helpers.impostor import RSA_PSS, ImpostorClient, ImpostorServer  # noqa: E402

WAIT_SECONDS = 20.0
HELLO_BYTES = 4000
#: Doors of the node: how it treats client certificates, and its oldest TLS.
DOORS = {
    "verify": (ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, ssl.TLSVersion.TLSv1_3),
    "any": (ClientAuth.REQUIRE_ANY_CLIENT_CERT, ssl.TLSVersion.TLSv1_3),
    "none": (ClientAuth.NO_CLIENT_CERT, ssl.TLSVersion.TLSv1_3),
    "old": (ClientAuth.NO_CLIENT_CERT, ssl.TLSVersion.TLSv1_2),
    "lists": (ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, ssl.TLSVersion.TLSv1_3),
}
#: Entries in the revocation list of the authority that the last door trusts.
LISTED = 100_000
LISTED_PEER = "listed@127.0.0.1"


# --- the node ------------------------------


def manager(
    folder: Path, name: str, auth: ClientAuth, *, lists: bool = False, **options: Any
) -> Any:
    pool = CertPool.load(folder / ("lists-ca.pem" if lists else "ca.pem"))
    if lists:
        pool.load_crl(folder / "lists.crl")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=auth,
        root_cas=pool,
        **options,
    )


async def serve(folder: Path) -> None:
    """Open every door, and obey lines on standard input."""
    # Lines are composed as ever; only the terminal is spared.
    logging.getLogger("fastnode").addHandler(logging.NullHandler())
    logging.getLogger("fastnode").propagate = False
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    acceptors = [
        AcceptorOptions(
            port=0,
            cert_manager=manager(
                folder,
                trust.SERVER,
                auth,
                lists=door == "lists",
                minimum_version=version,
            ),
        )
        for door, (auth, version) in DOORS.items()
        if door != "lists" or (folder / "lists.crl").exists()
    ]
    options = NodeOptions(
        cert_manager=manager(folder, trust.SERVER, ClientAuth.NO_CLIENT_CERT),
        network=NetworkOptions(acceptors=acceptors, busy_poll=0),
        shutdown_timeout=1.0,
    )
    async with await start_node(trust.SERVER, options) as node:
        node.handler("echo")(lambda message: message.payload)
        ports = [acceptor.address[1] for acceptor in node.acceptors]
        say(dict(zip(DOORS, ports, strict=False)))
        while line := await lines.readline():
            say(await obey(node, json.loads(line)))


async def obey(node: Node, order: dict[str, Any]) -> dict[str, Any]:
    if "dial" in order:
        match = f"^{trust.CLIENT}$"
        insecure = order["insecure"]
        node.add_route(
            Route(match, "127.0.0.1", order["dial"], insecure_skip_verify=insecure)
        )
        for _ in range(order["times"]):
            with suppress(FastnodeError):
                await node.connect(trust.CLIENT)
        node.remove_route(match)
    return {"cpu": time.process_time()}


def say(words: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class Child:
    """The node, as strangers see it."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--node", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: dict[str, int] = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        read: dict[str, Any] = json.loads(self._process.stdout.readline())
        return read

    def order(self, **words: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._read()

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return float(self.order()["cpu"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_SECONDS)


@contextmanager
def node(*, lists: bool = False) -> Iterator[tuple[Child, Path]]:
    """Start it; the door with the list takes some seconds to make."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trust.make(folder)
        if lists:
            make_lists(folder)
        child = Child(folder)
        try:
            yield child, folder
        finally:
            child.close()


def make_lists(folder: Path) -> None:
    """Write an authority with a long revocation list, and a certificate from it."""
    authority = Authority.create("list CA")
    (folder / "lists-ca.pem").write_bytes(authority.cert_pem)
    (folder / "lists.crl").write_bytes(authority.crl(range(1, LISTED + 1)))
    issued = authority.issue(NodeName.parse(LISTED_PEER))
    issued.save(folder / f"{LISTED_PEER}.pem", folder / f"{LISTED_PEER}-key.pem")


# --- strangers at an acceptor ------------------------------


class Stranger(NamedTuple):
    """One way to cost an acceptor something.

    Attributes:
        name: for the table.
        door: one of `DOORS`.
        come: makes a connection do it; returns the bytes that were sent.
    """

    name: str
    door: str
    come: Callable[[socket.socket, Path], int]


def words(data: bytes) -> Callable[[socket.socket, Path], int]:
    """Send these bytes, and hang up when an answer has come, or none can."""

    def come(sock: socket.socket, folder: Path) -> int:  # noqa: ARG001
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        drain(sock)
        return len(data)

    return come


def drain(sock: socket.socket) -> bytes:
    read = b""
    with suppress(OSError):
        while data := sock.recv(1 << 16):
            read += data
    return read


def chain(
    make: Callable[[], list[bytes]], **signature: int
) -> Callable[[socket.socket, Path], int]:
    """Show a chain without its key."""
    made = make()

    def come(sock: socket.socket, folder: Path) -> int:
        impostor = ImpostorClient(folder)
        hello = impostor.hello()
        sock.sendall(hello)
        while not impostor.ready(sock.recv(1 << 16)):
            pass
        shown = impostor.show(made, **signature)
        sock.sendall(shown)
        drain(sock)
        return len(hello) + len(shown)

    return come


def copied(*, forged: bool) -> Callable[[socket.socket, Path], int]:
    """Show a certificate of the authority with the list, without its key.

    Args:
        forged: whether its signature is another one.
    """

    def come(sock: socket.socket, folder: Path) -> int:
        pem = (folder / f"{LISTED_PEER}.pem").read_text()
        der = bytearray(ssl.PEM_cert_to_DER_cert(pem))
        der[-1] ^= forged
        return chain(lambda: [bytes(der)])(sock, folder)

    return come


def shaken(
    then: Callable[[Path, bytes, bytes], bytes] | None = None,
    *,
    certificate: str | None = None,
    curve: str | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Callable[[socket.socket, Path], int]:
    """Shake hands, send something, and read to the end.

    Args:
        then: makes what is sent, of a key log, and of what was sent and read before.
    """

    def come(sock: socket.socket, folder: Path) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["fastnode/1"])
        if curve is not None:
            context.set_ecdh_curve(curve)
        if certificate is not None:
            context.load_cert_chain(
                folder / f"{certificate}.pem", folder / f"{certificate}-key.pem"
            )
        log = folder / "shaken.keys"
        log.unlink(missing_ok=True)
        context.keylog_filename = str(log)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(into, out, server_hostname="127.0.0.1")
        sent, read = b"", b""
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sent += push(sock, out.read())
                read += (part := sock.recv(1 << 16))
                into.write(part)
        sent += push(sock, out.read())
        if then is not None:
            sent += push(sock, then(log, sent, read))
        sock.shutdown(socket.SHUT_WR)
        drain(sock)
        return len(sent)

    return come


def push(sock: socket.socket, data: bytes) -> bytes:
    with suppress(OSError):
        sock.sendall(data)
    return data


def key_updates(log: Path, sent: bytes, read: bytes) -> bytes:  # noqa: ARG001
    traffic = Traffic(traffic_secret(log))
    words = b""
    for _ in range(300):
        words += traffic.close(bytes([KEY_UPDATE, 0, 0, 1, 0]), 22)
        traffic.renew()
    return words


def tiny_records(log: Path, sent: bytes, read: bytes) -> bytes:  # noqa: ARG001
    traffic = Traffic(traffic_secret(log))
    head = bytes([1, 0, 0, 0]) + HELLO_BYTES.to_bytes(4) + bytes(340)
    return b"".join(traffic.close(head[at : at + 1], 23) for at in range(len(head)))


def renegotiations(log: Path, sent: bytes, read: bytes) -> bytes:
    """TLS 1.2: ask to begin again, as often as there is room for.

    The records are made by hand, since OpenSSL asks once and waits (RFC 5246, 6.3; RFC
    5288): the cipher is AES-256-GCM with SHA-384.
    """
    (line,) = (x for x in log.read_text().splitlines() if x.startswith("CLIENT_RAN"))
    master = bytes.fromhex(line.split()[2])
    # Behind the heads of a record and a message, and the version, is the random.
    seed = b"key expansion" + read[11:43] + sent[11:43]
    block, a = b"", seed
    while len(block) < 72:
        a = hmac.digest(master, a, "sha384")
        block += hmac.digest(master, a + seed, "sha384")
    key, iv = AESGCM(block[:32]), block[64:68]
    hello = sent[5 : 5 + int.from_bytes(sent[3:5])]
    words = b""
    for number in range(1, 1 + 8000 // (len(hello) + 29)):
        count = number.to_bytes(8)
        head = count + b"\x16\x03\x03" + len(hello).to_bytes(2)
        sealed = count + key.encrypt(iv + count, hello, head)
        words += b"\x16\x03\x03" + len(sealed).to_bytes(2) + sealed
    return words


def split(hello: bytes) -> bytes:
    """The same message in records of one byte."""
    return b"".join(b"\x16\x03\x03\x00\x01" + bytes([byte]) for byte in hello[5:])


def strangers() -> Iterator[Stranger]:
    """All of them, the normal ones first."""
    x25519 = hellos.GROUPS["X25519"]
    ffdhe = hellos.FFDHE8192
    recorded = hellos.client_hello([ffdhe], [hellos.key_share(ffdhe)])
    plain = hellos.client_hello([x25519], [hellos.key_share(x25519, 32)])
    retry = hellos.client_hello([ffdhe, x25519], [hellos.key_share(ffdhe)])
    many = hellos.client_hello([x25519], [hellos.key_share(x25519, 32)] * 100)
    names = heavy.authority_names(200)[8:]
    asks = hellos.client_hello([x25519], [hellos.key_share(x25519, 32)], extra=names)
    known = shaken(certificate=trust.CLIENT)
    yield Stranger("a normal handshake, mutual TLS", "verify", known)
    yield Stranger("a normal handshake, anonymous", "none", shaken())
    yield Stranger("garbage", "none", words(b"GET / HTTP/1.1\r\n\r\n"))
    yield Stranger("a recorded ClientHello, X25519", "none", words(plain))
    yield Stranger("a recorded ClientHello, ffdhe8192", "none", words(recorded))
    yield Stranger("HelloRetryRequest", "none", words(retry))
    yield Stranger("100 key shares", "none", words(many))
    yield Stranger("200 authorities in a ClientHello", "none", words(asks))
    yield Stranger("a ClientHello in records of 1 byte", "none", words(split(plain)))
    flood = plain + b"\x14\x03\x03\x00\x01\x01" * 4000
    yield Stranger("4000 ChangeCipherSpec", "none", words(flood))
    for curve in ("prime256v1", "secp384r1"):
        yield Stranger(f"key exchange {curve}", "none", shaken(curve=curve))
    for kind, key in heavy.KEYS.items():
        rsa = {"algorithm": RSA_PSS, "size": 1024 if "8192" in kind else 256}
        show = chain(lambda key=key: [heavy.certificate(key())], **rsa)  # type: ignore[misc]
        yield Stranger(f"key {kind}, verified", "verify", show)
        yield Stranger(f"key {kind}, not verified", "any", show)
    for count in (10, 11, 55):
        show = chain(lambda count=count: [heavy.certificate()] * count)  # type: ignore[misc]
        yield Stranger(f"{count} certificates", "verify", show)
    curves = [heavy.certificate(heavy.explicit_curve())] * 20
    yield Stranger("20 explicit curves", "verify", chain(lambda: curves))
    for count in (300, 1000, 2000):
        made = [heavy.certificate(extensions=[heavy.sans(count)])]
        yield Stranger(f"{count} SANs", "verify", chain(lambda made=made: made))  # type: ignore[misc]
    made = [
        heavy.certificate(extensions=[heavy.sans(100)]),
        heavy.certificate(extensions=[heavy.constraints(300)]),
    ]
    yield Stranger("100 SANs, 300 constraints", "verify", chain(lambda: made))
    subject = [heavy.certificate(subject=heavy.name(b"a", 1000))]
    yield Stranger("1000 parts of a subject", "verify", chain(lambda: subject))
    listed = f"list of {LISTED}"
    known = shaken(certificate=LISTED_PEER)
    yield Stranger(f"{listed}: a normal handshake", "lists", known)
    yield Stranger(f"{listed}: a forged certificate", "lists", copied(forged=True))
    yield Stranger(f"{listed}: a copied certificate", "lists", copied(forged=False))
    yield Stranger("300 KeyUpdates before HELLO", "none", shaken(key_updates))
    yield Stranger("348 records of 1 byte before HELLO", "none", shaken(tiny_records))
    old = ssl.TLSVersion.TLSv1_2
    yield Stranger(
        "TLS 1.2: requests to renegotiate, 8 KiB", "old",
        shaken(renegotiations, version=old),
    )  # fmt: skip


def measure(child: Child, stranger: Stranger, folder: Path, count: int) -> list[str]:
    """A row of the table."""
    sent = 0
    address = ("127.0.0.1", child.ports[stranger.door])
    for number in range(count + 3):
        if number == 3:  # the first ones make contexts, and are not counted
            before = child.cpu()
            sent = 0
        with socket.create_connection(address, timeout=WAIT_SECONDS) as sock:
            sent += stranger.come(sock, folder)
    return row(stranger.name, "acceptor", child.cpu() - before, sent, count)


def row(name: str, role: str, cpu: float, sent: int, count: int) -> list[str]:
    each, kib = cpu / count * 1e3, sent / count / 1024
    per_kib = f"{each / kib:.2f}" if kib else "-"
    return [name, role, f"{each:.2f}", f"{kib:.1f}", per_kib]


# --- servers that a node dials ------------------------------


class Hostile(NamedTuple):
    """A server that costs its dialers something.

    Attributes:
        name: for the table.
        insecure: whether the dialer verifies nothing.
        answer: what it says to a ClientHello; folder: for its files.
    """

    name: str
    insecure: bool
    answer: Callable[[bytes, Path], bytes]


def shows(
    made: list[bytes], request: bytes | None = None, **signature: int
) -> Callable[[bytes, Path], bytes]:
    def answer(hello: bytes, folder: Path) -> bytes:
        file = folder / "both.pem"
        if not file.exists():
            halves = (f"{trust.SERVER}.pem", f"{trust.SERVER}-key.pem")
            file.write_bytes(b"".join((folder / half).read_bytes() for half in halves))
        server = ImpostorServer(folder, file)
        return server.show(hello, made, request=request, **signature)

    return answer


def hostile_servers() -> Iterator[Hostile]:
    yield Hostile("a chain of one, P-256", False, shows([heavy.certificate()]))

    def retry(hello: bytes, folder: Path) -> bytes:  # noqa: ARG001
        return hellos.hello_retry_request(hello, hellos.FFDHE8192)

    yield Hostile("asks for ffdhe8192", False, retry)

    def slow(hello: bytes, folder: Path) -> bytes:  # noqa: ARG001
        return hellos.hello_retry_request(hello, hellos.GROUPS["P-384"])

    yield Hostile("asks for P-384", False, slow)
    for kind, key in heavy.KEYS.items():
        size = 1024 if "8192" in kind else 256
        made = [heavy.certificate(key())]
        answer = shows(made, algorithm=RSA_PSS, size=size)
        yield Hostile(f"key {kind}, not verified", True, answer)
    many = [heavy.certificate()] * 300
    yield Hostile("300 certificates", False, shows(many))
    names = [heavy.certificate(extensions=[heavy.sans(1000)])]
    yield Hostile("1000 SANs", False, shows(names))
    for count in (900, 3500):
        request = heavy.authority_names(count)
        answer = shows([heavy.certificate()], request)
        yield Hostile(f"names {count} authorities", False, answer)


def measure_dials(
    child: Child, hostile: Hostile, folder: Path, count: int
) -> list[str]:
    """A row of the table."""
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_SECONDS)

        def serve() -> int:
            total = 0
            for _ in range(count):
                sock, _ = listening.accept()
                with sock, suppress(OSError):
                    sock.settimeout(WAIT_SECONDS)
                    head = sock.recv(5, socket.MSG_WAITALL)
                    size = int.from_bytes(head[3:])
                    hello = head + sock.recv(size, socket.MSG_WAITALL)
                    total += len(push(sock, hostile.answer(hello, folder)))
                    drain(sock)
            return total

        with ThreadPoolExecutor(1) as pool:
            serving = pool.submit(serve)
            before = child.cpu()
            port = listening.getsockname()[1]
            after = child.order(dial=port, times=count, insecure=hostile.insecure)
            sent = serving.result(WAIT_SECONDS)
    return row(hostile.name, "dialer", after["cpu"] - before, sent, count)


def table(only: str, count: int) -> None:
    """Measure, and print a table in Markdown."""
    print(f"{ssl.OPENSSL_VERSION}, {os.cpu_count()} processors, load {os.getloadavg()}")
    print("| what a stranger does | to | CPU ms | KiB sent | CPU ms per KiB |")
    print("|---|---|---|---|---|")
    chosen = [stranger for stranger in strangers() if only in stranger.name]
    lists = any(stranger.door == "lists" for stranger in chosen)
    with node(lists=lists) as (child, folder):
        for stranger in chosen:
            show(measure(child, stranger, folder, count))
        for hostile in hostile_servers():
            if only in hostile.name:
                show(measure_dials(child, hostile, folder, count))


def show(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


# --- the clock ------------------------------


def knock(port: int, rate: float, stop: Any, counted: Any) -> None:
    """Send a recorded key share of ffdhe8192, `rate` times a second."""
    ffdhe = hellos.FFDHE8192
    data = hellos.client_hello([ffdhe], [hellos.key_share(ffdhe)])
    due = time.perf_counter()
    open_sockets: list[socket.socket] = []
    while not stop.is_set():
        with suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
            sock.sendall(data)
            open_sockets.append(sock)
            counted.value += 1
        # Each stays for a moment: to hang up at once would cancel its handshake.
        while len(open_sockets) > rate / 10:
            open_sockets.pop(0).close()
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))


async def observe(port: int, folder: Path, seconds: float, child: Child) -> None:
    """A known peer calls and a good peer connects; print how long that takes."""
    auth = ClientAuth.NO_CLIENT_CERT

    def options() -> NodeOptions:
        return NodeOptions(
            cert_manager=manager(folder, trust.CLIENT, auth),
            network=NetworkOptions(
                acceptors=(), routes=[Route(".", "127.0.0.1", port)]
            ),
        )

    calls: list[float] = []
    connects: list[float] = []
    failures: Counter[str] = Counter()
    async with await start_node(trust.client_name(0), options()) as known:
        link = await known.connect(trust.SERVER)
        end = time.perf_counter() + seconds
        cpu, began = child.cpu(), time.perf_counter()

        async def connect() -> None:
            number = 1
            while time.perf_counter() < end:
                at = time.perf_counter()
                try:
                    name = trust.client_name(number)
                    async with await start_node(name, options()) as other:
                        await other.connect(trust.SERVER)
                        connects.append(time.perf_counter() - at)
                except FastnodeError as error:
                    failures[type(error).__name__] += 1
                number += 1
                await asyncio.sleep(0.5)

        connecting = asyncio.create_task(connect())
        while time.perf_counter() < end:
            at = time.perf_counter()
            await link.call("echo", b"x" * 64, timeout=WAIT_SECONDS)
            calls.append(time.perf_counter() - at)
            await asyncio.sleep(0.005)
        await connecting
        busy = (child.cpu() - cpu) / (time.perf_counter() - began)
    cuts = statistics.quantiles(calls, n=1000)
    print(
        f"  calls {len(calls)}: p50 {cuts[499] * 1e3:.2f} ms, p99 {cuts[989] * 1e3:.2f}"
        f" ms, p99.9 {cuts[998] * 1e3:.2f} ms, most {max(calls) * 1e3:.2f} ms"
    )
    print(
        f"  connects {len(connects)}: median {statistics.median(connects) * 1e3:.1f} ms"
        f", most {max(connects) * 1e3:.1f} ms; failed {dict(failures) or 0}"
    )
    print(f"  the node used {busy * 100:.1f} % of a processor", flush=True)


def clock(seconds: float, rate: float) -> None:
    """Compare a known peer alone with the same beside strangers."""
    print(f"{ssl.OPENSSL_VERSION}, {os.cpu_count()} processors, load {os.getloadavg()}")
    with node() as (child, folder):
        port = child.ports["verify"]
        print("alone:")
        run(observe(port, folder, seconds, child))
        stop, counted = multiprocessing.Event(), multiprocessing.Value("i", 0)
        knocking = multiprocessing.Process(
            target=knock, args=(port, rate, stop, counted)
        )
        knocking.start()
        began = time.perf_counter()
        try:
            print(f"beside {rate:g} strangers a second, from one address:")
            run(observe(port, folder, seconds, child))
        finally:
            stop.set()
            knocking.join(WAIT_SECONDS)
        took = time.perf_counter() - began
        print(f"  {counted.value} strangers came, {counted.value / took:.0f} a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose names hold this text")
    parser.add_argument("--connections", type=int, default=100, help="for each row")
    parser.add_argument("--clock", type=float, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=100.0, help="strangers a second")
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node is not None:
        run(serve(options.node))
    elif options.clock is not None:
        clock(options.clock, options.rate)
    else:
        table(options.only, options.connections)


if __name__ == "__main__":
    main()
