"""Both engines: two ends in memory, and the same outcome from the same input."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.certificate import Certificate
from fastnode.errors import ProtocolError
from fastnode.limits import MAX_CLIENT_HANDSHAKE_BYTES
from fastnode.openssl.handle import wrap
from fastnode.tls.choice import ENGINE_VARIABLE, make_engine, why_not_direct
from fastnode.tls.direct import DirectEngine
from fastnode.tls.engine import TlsEngine
from fastnode.tls.memory_bio import MemoryBioEngine
from helpers.collector import without_collector
from helpers.engines import (
    HOST,
    TLS12,
    TLS13,
    contexts,
    direct,
    memory_bio,
    shake,
)
from helpers.nodes import A
from helpers.pki import certificate

RECORD = 16 << 10

reachable = pytest.mark.skipif(
    why_not_direct() is not None, reason=f"the direct engine: {why_not_direct()}"
)

#: Of a context, and of a name where it dials.
Make = Callable[[ssl.SSLContext, str | None], TlsEngine]


KINDS: dict[str, Make] = {"direct": direct, "memory-bio": memory_bio}
BOTH = [
    pytest.param("direct", marks=reachable),
    pytest.param("memory-bio"),
]


@pytest.fixture(params=BOTH)
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


class Pair:
    """Two engines; what they say is carried between them when a test says so."""

    def __init__(self, make: Make, *, judged: bool = True, **details: Any) -> None:
        dialing, accepting = contexts(**details)
        self.near, self.far = make(dialing, HOST), make(accepting, None)
        shake(self.near, self.far, judged=judged)

    def to_far(self) -> bytes:
        return self.far.receive(self.near.sent())[1]


def outcome(work: Callable[[], object]) -> tuple[object, ...]:
    """What came of it, without what differs between equals."""
    try:
        return ("done", work())
    except ssl.SSLError as error:
        return (type(error), error.errno, error.library, error.reason)
    except ProtocolError as error:
        return (type(error), error.message)


def same(work: Callable[[Make], object]) -> tuple[object, ...]:
    """The outcome, which is the same with both engines."""
    found = [outcome(lambda make=make: work(make)) for make in KINDS.values()]  # type: ignore[misc]
    assert found[0] == found[1]
    return found[0]


# --- data ---------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("size", [0, 1, RECORD - 1, RECORD, RECORD + 1, 1 << 20])
def test_what_is_sent_arrives(make: Make, size: int, version: ssl.TLSVersion) -> None:
    pair = Pair(make, version=version)
    data = random.Random(size).randbytes(size)
    pair.near.send(data)
    wire = pair.near.sent()
    assert len(wire) < size + 64 * (size // RECORD + 1)
    assert pair.far.receive(wire) == (True, data, False)
    pair.far.send(data)
    assert pair.near.receive(pair.far.sent()) == (True, data, False)
    assert pair.near.sent() == pair.far.sent() == b""


@pytest.mark.parametrize("piece", [1, 5, 1000, 2048])
def test_it_may_come_in_pieces_of_any_size(make: Make, piece: int) -> None:
    dialing, accepting = contexts()
    near, far = make(dialing, HOST), make(accepting, None)
    near.receive(b"")
    for source, sink in ((near, far), (far, near), (near, far)):
        wire = source.sent()
        for at in range(0, len(wire), piece):
            sink.receive(wire[at : at + piece])
    near.judged()
    near.send(bytes(20_000))
    wire, got = near.sent(), b""
    for at in range(0, len(wire), piece):
        got += far.receive(wire[at : at + piece])[1]
    assert got == bytes(20_000)


def test_data_may_follow_the_handshake_at_once(make: Make) -> None:
    dialing, accepting = contexts()
    near, far = make(dialing, HOST), make(accepting, None)
    near.receive(b"")
    far.receive(near.sent())
    near.receive(far.sent())
    near.judged()
    near.send(b"x" * 100_000)
    complete, data, _ = far.receive(near.sent())
    assert complete
    assert data == b"x" * 100_000


def test_what_was_not_read_is_kept(make: Make) -> None:
    pair = Pair(make)
    chunks = []
    for number in range(6):
        pair.near.send(bytes([number]) * 20_000)
        # The buffer changes as soon as the call is over.
        wire = bytearray(pair.near.sent())
        chunks.append(pair.far.receive(wire, most=9_000)[1])
        wire[:] = bytes(len(wire))
    chunks.append(pair.far.receive(b"")[1])
    assert b"".join(chunks) == b"".join(bytes([n]) * 20_000 for n in range(6))


def test_small_and_large_take_turns(make: Make) -> None:
    pair = Pair(make)
    for size in (1, 200_000, 1, 5_000, 300_000, 20):
        for _ in range(3):
            pair.near.send(bytes(size))
        assert len(pair.to_far()) == 3 * size


def test_who_it_is(make: Make) -> None:
    pair = Pair(make)
    for end in (pair.near, pair.far):
        assert (end.version, end.alpn) == ("TLSv1.3", "fastnode/1")
        assert end.cipher == "TLS_AES_256_GCM_SHA384"
        assert end.certificate == certificate(A).x509.public_bytes(Encoding.DER)
    assert Pair(make, judged=False).far.verdict is not None
    assert pair.far.verdict is None


# --- the end, and what goes wrong ---------------------------------------------


def test_an_orderly_end(make: Make) -> None:
    pair = Pair(make)
    pair.near.send(b"last")
    pair.near.end()
    assert pair.far.receive(pair.near.sent()) == (True, b"last", True)
    pair.far.send(b"not yet")
    pair.far.end()
    assert pair.far.sent()


def test_after_the_end_an_engine_reads_and_writes_nothing(make: Make) -> None:
    pair = Pair(make, judged=False)
    pair.far.send(b"never read")
    wire = pair.far.sent()
    about = ("certificate", "version", "cipher", "alpn", "verdict")
    before = [getattr(pair.near, each) for each in about]
    assert all(before)
    pair.near.end()
    pair.near.end()
    assert len(pair.near.sent()) > 0
    assert [getattr(pair.near, each) for each in about] == before
    with pytest.raises(ssl.SSLError, match="this side has closed TLS"):
        pair.near.receive(wire)
    with pytest.raises(ssl.SSLError, match="this side has closed TLS"):
        pair.near.send(b"never sent")
    pair.near.judged()
    pair.near.busy(True)
    with pytest.raises(ssl.SSLError, match="this side has closed TLS"):
        pair.near.send(b"never sent")
    assert pair.near.sent() == b""


def test_an_engine_may_end_before_its_handshake(make: Make) -> None:
    for context, host in zip(contexts(), (HOST, None), strict=True):
        engine = make(context, host)
        engine.receive(b"")
        engine.end()
        engine.sent()
        assert engine.certificate is None
        assert engine.alpn is None


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("cut", [0, 3, 30])
@reachable
def test_a_stream_that_is_cut(cut: int, version: ssl.TLSVersion, judged: bool) -> None:
    def work(make: Make) -> object:
        pair = Pair(make, version=version, judged=judged)
        pair.near.send(bytes(100))
        pair.far.receive(pair.near.sent()[:cut])
        return pair.far.receive(b"", eof=True)

    same(work)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("version", [TLS12, TLS13])
@reachable
def test_a_record_that_was_tampered_with_and_the_alert_for_it(
    version: ssl.TLSVersion, judged: bool
) -> None:
    def tampered(make: Make) -> Pair:
        pair = Pair(make, version=version, judged=judged)
        pair.near.send(bytes(100))
        wire = bytearray(pair.near.sent())
        wire[-1] ^= 1
        with pytest.raises(ssl.SSLError) as caught:
            pair.far.receive(wire)
        # Each OpenSSL has its own word for it. What the peer is told is TLS's.
        assert caught.value.reason
        return pair

    def alert(make: Make) -> object:
        pair = tampered(make)
        return pair.near.receive(pair.far.sent())

    def send(make: Make) -> object:
        pair = tampered(make)
        with contextlib.suppress(ssl.SSLError):
            pair.near.receive(pair.far.sent())
        pair.near.send(b"more")
        return pair.near.sent()

    def read_on(make: Make) -> object:
        pair = tampered(make)
        return pair.far.receive(b"")

    kind, _, _, reason = same(alert)
    assert kind is ssl.SSLError
    assert isinstance(reason, str)
    assert reason.endswith("ALERT_BAD_RECORD_MAC")
    same(send)
    same(read_on)


@reachable
def test_a_client_hears_that_it_was_refused() -> None:
    stranger = Certificate.self_signed("stranger")

    def refusing(make: Make) -> object:
        dialing, accepting = contexts(stranger)
        near, far = make(dialing, HOST), make(accepting, None)
        near.receive(b"")
        far.receive(near.sent())
        near.receive(far.sent())
        far.receive(near.sent())
        return None

    def refused(make: Make) -> object:
        dialing, accepting = contexts(stranger)
        near, far = make(dialing, HOST), make(accepting, None)
        near.receive(b"")
        far.receive(near.sent())
        near.receive(far.sent())
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            far.receive(near.sent())
        assert far.verdict is not None
        assert caught.value.verify_code == far.verdict.code == 18
        return near.receive(far.sent())

    assert same(refusing)[3] == "CERTIFICATE_VERIFY_FAILED"
    assert same(refused)[3] == "TLSV1_ALERT_UNKNOWN_CA"


def test_a_stranger_may_send_so_much_and_no_more(make: Make) -> None:
    _, accepting = contexts()
    far = make(accepting, None)
    # A message of the greatest size, which never ends.
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(RECORD - 4)
    with pytest.raises((ProtocolError, ssl.SSLError)):
        for _ in range(MAX_CLIENT_HANDSHAKE_BYTES // RECORD + 2):
            far.receive(record)
    assert far.certificate is None


@reachable
def test_junk_in_the_error_queue_is_not_ours() -> None:
    library = ctypes.CDLL(sys.modules["_ssl"].__file__)
    if not hasattr(library, "ERR_set_error"):
        pytest.skip("OpenSSL before 3.0 has no ERR_set_error")
    pair = Pair(direct)
    for _ in range(3):
        library.ERR_new()
        library.ERR_set_error(20, 110, None)
        pair.near.send(b"some")
        library.ERR_new()
        library.ERR_set_error(20, 110, None)
        assert pair.to_far() == b"some"


# --- the same outcome ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
@reachable
def test_whatever_a_stranger_sends(seed: int) -> None:
    """Into a server that waits for a ClientHello; the same bytes to both."""
    chance = random.Random(seed)
    hello_from = direct(contexts()[0], HOST)
    hello_from.receive(b"")
    wire = bytearray(hello_from.sent())
    for _ in range(chance.choice([0, 1, 1, 3])):
        wire[chance.randrange(len(wire))] = chance.randrange(256)
    if seed % 5 == 0:
        wire = bytearray(chance.randbytes(chance.randrange(1, 40_000)))
    if seed % 7 == 0:
        wire = wire[: chance.randrange(len(wire))]
    piece = chance.choice([1, 7, 100_000]) if len(wire) < 5000 else 100_000
    accepting = contexts()[1]

    def work(make: Make) -> object:
        far = make(accepting, None)
        for at in range(0, len(wire), piece):
            assert far.receive(wire[at : at + piece])[0] is False
        return far.receive(b"", eof=True)

    same(work)


#: Records that anybody on the way may put in: an alert in plaintext, one without a
#: body, a change of ciphers, a handshake message, and no TLS at all.
FOREIGN = (
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x17\x03\x03\x00\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x16\x03\x03\x00\x05\x18\x00\x00\x01\x01",
    b"GET / HTTP/1.1\r\n\r\n",
)


def mutated(wire: bytes, chance: random.Random) -> bytes:
    """A change to one record. What comes of it must not hang on what ciphertext happens
    to say: the two engines have keys of their own."""
    records: list[bytearray] = []
    while wire:
        size = 5 + int.from_bytes(wire[3:5], "big")
        records.append(bytearray(wire[:size]))
        wire = wire[size:]
    at = chance.randrange(len(records))
    record = records[at]
    match chance.randrange(6):
        case 0:
            spoil(record, chance)
        case 1:
            del records[at]
        case 2:
            records.insert(at, record)
        case 3:
            records.insert(at, bytearray(chance.choice(FOREIGN)))
        case 4:
            chance.shuffle(records)
        case 5:
            records[at:] = [record[: chance.randrange(len(record))]]
    return b"".join(records)


def spoil(record: bytearray, chance: random.Random) -> None:
    """Change its body, type, version or length."""
    match chance.randrange(4):
        case 0:
            record[chance.randrange(5, len(record))] ^= 1 << chance.randrange(8)
        case 1:
            record[0] = chance.randrange(256)
        case 2:
            record[chance.choice([1, 2])] = chance.randrange(256)
        case 3:
            record[3:5] = chance.randrange(1 << 16).to_bytes(2, "big")


@pytest.mark.parametrize("seed", range(150))
@reachable
def test_whatever_happens_to_a_stream(seed: int, pairs: dict[Make, Any]) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([1, 10, 100, 3000, RECORD, 40_000]) for _ in range(3)]
    piece = chance.choice([3000, 200_000])

    def work(make: Make) -> object:
        dialing, accepting = pairs[make]
        pair = Pair.__new__(Pair)
        pair.near, pair.far = shaken(make, dialing, accepting)
        for size in sizes:
            pair.near.send(bytes(size))
        wire = mutated(pair.near.sent(), random.Random(seed))
        got = 0
        for at in range(0, len(wire), piece):
            _, data, ended = pair.far.receive(wire[at : at + piece])
            got += len(data)
            if ended:
                return got, "ended"
        return got, pair.far.receive(b"", eof=True)

    same(work)


def shaken(
    make: Make, dialing: ssl.SSLContext, accepting: ssl.SSLContext
) -> tuple[TlsEngine, TlsEngine]:
    near, far = make(dialing, HOST), make(accepting, None)
    shake(near, far)
    return near, far


@pytest.fixture(scope="module")
def pairs() -> dict[Make, Any]:
    return {make: contexts() for make in KINDS.values()}


# --- memory, and who owns what ------------------------------------------------


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer keeps memory")
def test_engines_leave_nothing_behind(make: Make) -> None:
    dialing, accepting = contexts()

    def round_trip(times: int) -> None:
        for _ in range(times):
            near, far = make(dialing, HOST), make(accepting, None)
            near.receive(b"")
            with contextlib.suppress(ssl.SSLError):
                far.receive(near.sent()[:100])
                far.receive(b"junk" * 30)

    with without_collector():
        round_trip(1000)
        counts = sys.getrefcount(dialing), sys.getrefcount(accepting)
        before = resident_bytes()
        round_trip(10_000)
        assert resident_bytes() - before < 4 << 20
        assert (sys.getrefcount(dialing), sys.getrefcount(accepting)) == counts


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer keeps memory")
def test_links_that_were_up_leave_nothing_behind(make: Make) -> None:
    dialing, accepting = contexts()

    def round_trip(times: int) -> None:
        for number in range(times):
            near, far = shaken(make, dialing, accepting)
            near.send(bytes(100_000))
            far.receive(near.sent(), most=number * 1000)
            far.send(b"untaken")
            if number % 2:
                near.end()

    with without_collector():
        round_trip(60)
        before = resident_bytes()
        round_trip(120)
        assert resident_bytes() - before < 3 << 20


#: Engines that are kept, to see what they cost.
KEPT = 300


def growth(make_one: Callable[[], object]) -> float:
    """KiB for each of the objects that a function makes."""
    with without_collector():
        kept = [make_one() for _ in range(30)]
        before = resident_bytes()
        kept += [make_one() for _ in range(KEPT)]
        return (resident_bytes() - before) / 1024 / KEPT


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer keeps memory")
def test_an_engine_that_has_ended_holds_little(make: Make) -> None:
    """OpenSSL would hold 65 to 75 KiB for each."""
    _, accepting = contexts()

    def refused() -> TlsEngine:
        far = make(accepting, None)
        with pytest.raises(ssl.SSLError):
            far.receive(b"GET / HTTP/1.1\r\n\r\n")
        far.end()
        far.sent()
        return far

    assert growth(refused) < 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer keeps memory")
@reachable
def test_ephemeral_keys_are_freed_once_they_have_served() -> None:
    """OpenSSL 3.5 and newer would hold 14 KiB more for each pair: the public and the
    private key of X25519MLKEM768."""
    dialing, accepting = contexts()
    assert growth(lambda: shaken(direct, dialing, accepting)) < 60


@reachable
def test_the_object_may_outlive_the_engine() -> None:
    dialing, _ = contexts()
    handle = wrap(dialing, server_side=False, server_name=HOST)
    assert handle is not None
    engine = DirectEngine(handle, server_side=False)
    engine.receive(b"")
    assert engine.sent()[:1] == b"\x16"
    kept = handle.ssl
    del engine, handle
    with pytest.raises(ssl.SSLError):
        kept.do_handshake()
    assert kept.version() is None


@reachable
def test_what_cannot_be_proven_is_not_used() -> None:
    class Two:
        """A context that makes one more with each."""

        def __init__(self, context: ssl.SSLContext) -> None:
            self.context = context

        def __getattr__(self, name: str) -> Any:
            return getattr(self.context, name)

        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), **kwargs)
            return self.context.wrap_bio(*args, **kwargs)

    class Another(Two):
        """A context that hands out an object that was made before."""

        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            before, self.made = (
                self.__dict__.get("made"),
                self.context.wrap_bio(*args, **kwargs),
            )
            return before or self.made

    dialing: Any = contexts()[0]
    two, another = Two(dialing), Another(dialing)
    assert wrap(two, server_side=False, server_name=HOST) is None  # type: ignore[arg-type]
    assert wrap(another, server_side=False, server_name=HOST) is not None  # type: ignore[arg-type]
    assert wrap(another, server_side=False, server_name=HOST) is None  # type: ignore[arg-type]
    made = make_engine(two, server_side=False, server_name=HOST)  # type: ignore[arg-type]
    assert isinstance(made, MemoryBioEngine)


@reachable
def test_threads_and_finalizers_do_not_confuse_it() -> None:
    dialing, accepting = contexts()
    wrong: list[object] = []

    class Nuisance:
        """Makes an object when the collector finds it."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            dialing.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")

    def run() -> None:
        for _ in range(100):
            Nuisance()
            near = make_engine(dialing, server_side=False, server_name=HOST)
            far = make_engine(accepting, server_side=True)
            near.receive(b"")
            if far.receive(near.sent())[0] or not far.sent():
                wrong.append((near, far))

    before = gc.get_threshold()
    gc.set_threshold(7, 2, 2)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert not wrong


@reachable
def test_callbacks_of_the_context_still_find_their_object(tmp_path: Path) -> None:
    dialing, accepting = contexts()
    seen: list[tuple[ssl.SSLObject, str]] = []
    accepting.sni_callback = lambda tls, name, context: seen.append((tls, name))
    dialing.keylog_filename = str(tmp_path / "keys")
    near, far = (
        make_engine(dialing, server_side=False, server_name="localhost"),
        (make_engine(accepting, server_side=True)),
    )
    near.receive(b"")
    far.receive(near.sent())
    with contextlib.suppress(ssl.SSLError):
        near.receive(far.sent())
    ((tls, name),) = seen
    assert name == "localhost"
    assert isinstance(tls, ssl.SSLObject)
    assert (tmp_path / "keys").read_text(encoding="ascii")


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    dialing, _ = contexts()
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    best = make_engine(dialing, server_side=False, server_name=HOST)
    kind = DirectEngine if why_not_direct() is None else MemoryBioEngine
    assert isinstance(best, kind)
    monkeypatch.setenv(ENGINE_VARIABLE, "memory-bio")
    assert ENGINE_VARIABLE in (why_not_direct() or "")
    plain = make_engine(dialing, server_side=False, server_name=HOST)
    assert isinstance(plain, MemoryBioEngine)
