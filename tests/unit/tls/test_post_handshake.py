"""KeyUpdates and session tickets: few until the peer is judged, any number after that.

The other end is Python's own `ssl` until its handshake is complete. What it sends then
is made by hand.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fastnode.errors import ProtocolError, Side
from fastnode.limits import MAX_POST_HANDSHAKE_MESSAGES
from fastnode.openssl.burden import messages_left
from fastnode.openssl.verification import why_unavailable
from fastnode.tls.engine import TlsEngine
from helpers.engines import HOST, contexts, direct, memory_bio
from helpers.forge import (
    APPLICATION_DATA,
    HANDSHAKE,
    KEY_UPDATE,
    Traffic,
    traffic_secret,
)

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"OpenSSL: {why_unavailable()}"
)

MOST = MAX_POST_HANDSHAKE_MESSAGES
ENGINES = {"direct": direct, "memory-bio": memory_bio}
TICKET = 4
#: What a peer of an acceptor, or of a dialer, may send: only servers send tickets.
UPDATES = ["KeyUpdate", "KeyUpdate that asks for one"]
CASES = [(role, kind) for role in ("acceptor", "dialer") for kind in UPDATES]
CASES.append(("dialer", "ticket"))
#: For `messages_left`.
TOO_MANY = -2

cases = pytest.mark.parametrize(("role", "kind"), CASES)


def several(traffic: Traffic, kind: str, count: int) -> bytes:
    """So many messages of this kind, and then a byte of data."""
    sealed = b""
    for number in range(count):
        if kind == "ticket":
            # Lifetime, age, nonce, ticket, no extensions (RFC 8446, 4.6.1).
            body = bytes(8) + bytes([2]) + number.to_bytes(2) + b"\0\x01t" + bytes(2)
            sealed += traffic.close(
                bytes([TICKET]) + len(body).to_bytes(3) + body, HANDSHAKE
            )
        else:
            asks = kind == "KeyUpdate that asks for one"
            sealed += traffic.close(bytes([KEY_UPDATE, 0, 0, 1, asks]), HANDSHAKE)
            traffic.renew()
    return sealed + traffic.close(b"x", APPLICATION_DATA)


@pytest.fixture(params=ENGINES)
def shaken(
    request: pytest.FixtureRequest, role: str, tmp_path: Path
) -> tuple[TlsEngine, Traffic]:
    """An engine whose handshake is complete, and what its peer sends with."""
    make: Callable[[ssl.SSLContext, str | None], TlsEngine] = ENGINES[request.param]
    dialing, accepting = contexts()
    log = tmp_path / "keys"
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    if role == "acceptor":
        engine, context, side, name = make(accepting, None), dialing, "CLIENT", HOST
    else:
        engine, context, side, name = make(dialing, HOST), accepting, "SERVER", None
    context.keylog_filename = str(log)
    peer = context.wrap_bio(into, out, server_side=name is None, server_hostname=name)
    complete = False
    while not complete:
        into.write(engine.sent())
        with suppress(ssl.SSLWantReadError):
            peer.do_handshake()
        complete, _, _ = engine.receive(out.read())
    into.write(engine.sent())
    peer.do_handshake()
    return engine, Traffic(traffic_secret(log, side))


@cases
@pytest.mark.parametrize("at_once", [True, False])
def test_guarantee_9_few_messages_follow_a_handshake(
    shaken: tuple[TlsEngine, Traffic], kind: str, at_once: bool
) -> None:
    engine, traffic = shaken
    # They count together, however they arrive.
    for count in [MOST] if at_once else [1] * MOST:
        _, data, _ = engine.receive(several(traffic, kind, count))
        assert data == b"x"
    assert messages_left() == 0
    engine.sent()
    with pytest.raises(ProtocolError, match=f"more than {MOST} TLS messages") as caught:
        engine.receive(several(traffic, kind, 1))
    assert caught.value.side is Side.REMOTE
    assert caught.value.hint
    # The peer is told by an alert, sealed.
    assert engine.sent()[:1] == bytes([APPLICATION_DATA])


@cases
def test_guarantee_9_no_message_beyond_the_limit_is_processed(
    shaken: tuple[TlsEngine, Traffic], kind: str
) -> None:
    engine, traffic = shaken
    with pytest.raises(ProtocolError):
        engine.receive(several(traffic, kind, 20 * MOST))
    # OpenSSL read as far as the message that was refused, and no further.
    with pytest.raises(ssl.SSLError):
        engine.receive(b"")


@cases
def test_any_number_once_the_peer_is_judged(
    shaken: tuple[TlsEngine, Traffic], kind: str
) -> None:
    engine, traffic = shaken
    engine.judged()
    for count in (1, 20 * MOST):
        assert engine.receive(several(traffic, kind, count))[1] == b"x"
    engine.end()


@cases
def test_guarantee_9_a_refusal_reads_no_more_messages(
    shaken: tuple[TlsEngine, Traffic], kind: str
) -> None:
    """An engine that is closed looks for the peer's close_notify."""
    engine, traffic = shaken
    # So many at once that they would go through one call of OpenSSL.
    engine.receive(several(traffic, kind, 0) + several(traffic, kind, 300), most=1)
    engine.end()
    assert messages_left() == TOO_MANY


def test_each_connection_has_a_count_of_its_own() -> None:
    """All of them are read by the same thread."""
    dialing, accepting = contexts()
    accepting.num_tickets = MOST
    for _ in range(3):
        near, far = direct(dialing, HOST), direct(accepting, None)
        near.receive(b"")
        for _ in range(3):
            far.receive(near.sent())
            near.receive(far.sent())
        far.send(b"data")
        assert near.receive(far.sent())[1] == b"data"
    accepting.num_tickets = MOST + 1
    near, far = direct(dialing, HOST), direct(accepting, None)
    near.receive(b"")
    with pytest.raises(ProtocolError):
        for _ in range(3):
            far.receive(near.sent())
            near.receive(far.sent())
