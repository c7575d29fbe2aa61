"""The direct engine on links that live long: keys that are renewed, buffers that are
kept while there is something to do."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from fastnode.limits import RECORDS_OF_KEY
from fastnode.tls.choice import make_engine, why_not_direct
from fastnode.tls.direct import DirectEngine
from helpers.collector import without_collector
from helpers.engines import HOST, TLS12, contexts, direct, memory_bio, shake
from helpers.forge import HANDSHAKE, KEY_UPDATE, Traffic, traffic_secret
from helpers.strangers import records

pytestmark = pytest.mark.skipif(
    why_not_direct() is not None, reason=f"the direct engine: {why_not_direct()}"
)

RECORD = 16 << 10
#: Records under one key, in these tests.
FEW = 5
#: What two buffers of OpenSSL take, one for each direction: a record and some more.
BUFFERS = 2 * RECORD


# --- keys ---------------------------------------------------------------------


@pytest.mark.parametrize("far_kind", ["direct", "memory-bio"])
def test_a_key_encrypts_so_many_records_and_no_more(
    tmp_path: Path, far_kind: str
) -> None:
    dialing, accepting = contexts()
    dialing.keylog_filename = str(tmp_path / "keys")
    near = direct(dialing, HOST, records_of_key=FEW)
    far = (
        direct(accepting, None, records_of_key=FEW)
        if far_kind == "direct"
        else memory_bio(accepting, None)
    )
    shake(near, far)
    opened = Traffic(traffic_secret(tmp_path / "keys"))
    under_key, keys, sent, got = 0, 1, b"", b""
    source = random.Random(1)
    for number in range(60):
        data = source.randbytes(1 if number % 3 else 2 * RECORD + 7)
        near.send(data)
        sent += data
        wire = near.sent()
        _, part, ended = far.receive(wire)
        got += part
        assert not ended
        for record in records(wire):
            _, kind = content = opened.open(record)
            if kind == HANDSHAKE:
                # It does not ask that the other side do the same.
                assert content[0] == bytes([KEY_UPDATE, 0, 0, 1, 0])
                assert under_key == FEW
                opened.renew()
                under_key, keys = 0, keys + 1
            else:
                under_key += 1
                assert under_key <= FEW
        # And the other way: each renews its own.
        far.send(data)
        assert near.receive(far.sent())[1] == data
    assert got == sent
    assert keys == 20


def test_the_old_key_opens_nothing_after_it(tmp_path: Path) -> None:
    dialing, accepting = contexts()
    dialing.keylog_filename = str(tmp_path / "keys")
    near, far = (
        direct(dialing, HOST, records_of_key=1),
        direct(accepting, None, records_of_key=1),
    )
    shake(near, far)
    opened = Traffic(traffic_secret(tmp_path / "keys"))
    near.send(b"one")
    near.send(b"two")
    first, update, second = records(near.sent())
    assert opened.open(first) == (b"one", 23)
    assert opened.open(update)[1] == HANDSHAKE
    with pytest.raises(InvalidTag):
        opened.open(second)


def test_tls_1_2_has_no_such_thing() -> None:
    dialing, accepting = contexts(version=TLS12)
    near, far = (
        direct(dialing, HOST, records_of_key=FEW),
        direct(accepting, None, records_of_key=FEW),
    )
    shake(near, far)
    for _ in range(4 * FEW):
        near.send(b"data")
        assert far.receive(near.sent()) == (True, b"data", False)


def test_the_default_is_within_what_aes_gcm_allows() -> None:
    """RFC 8446, section 5.5: 2**24.5 full records."""
    assert RECORDS_OF_KEY <= 2**24.5 / 2
    dialing, _ = contexts()
    assert type(make_engine(dialing, server_side=False, server_name=HOST)) is (
        DirectEngine
    )


# --- buffers ------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = (
        ("before", ctypes.c_size_t * 7),
        ("uordblks", ctypes.c_size_t),
        ("after", ctypes.c_size_t * 2),
    )


def taken_bytes() -> int:
    """What malloc has given out, and did not get back."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    return int(mallinfo2().uordblks)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has its own malloc")
def test_a_busy_connection_keeps_its_buffers_and_an_idle_one_does_not() -> None:
    dialing, accepting = contexts()
    near, far = (
        direct(dialing, HOST, records_of_key=1 << 20),
        direct(accepting, None, records_of_key=1 << 20),
    )
    shake(near, far)

    def there_and_back() -> None:
        near.send(b"data")
        far.receive(near.sent())
        far.send(b"data")
        near.receive(far.sent())

    with without_collector():
        # A whole round before: OpenSSL makes some things once.
        for busy in (True, False):
            near.busy(busy)
            there_and_back()
        idle = taken_bytes()
        near.busy(True)
        assert near.holding
        there_and_back()
        # OpenSSL 3.2 and newer keeps the one for reading only.
        assert RECORD < taken_bytes() - idle < BUFFERS + 8192
        near.busy(False)
        assert not near.holding
        there_and_back()
        assert abs(taken_bytes() - idle) < 4096
