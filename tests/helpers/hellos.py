"""Handshake messages of TLS, made by hand: a ClientHello, and answers to one."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = [
    "FFDHE8192",
    "GROUPS",
    "client_hello",
    "extensions_of",
    "hello_retry_request",
    "key_share",
    "server_hello_12",
]

#: IANA's numbers of key-exchange groups.
GROUPS = {"P-256": 23, "P-384": 24, "P-521": 25, "X25519": 29, "X25519MLKEM768": 4588}
FFDHE8192 = 0x0104
#: What makes a ServerHello a HelloRetryRequest (RFC 8446, 4.1.3).
RETRY = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)
CLIENT_HELLO, SERVER_HELLO = 1, 2
SUPPORTED_GROUPS, SIGNATURES, ALPN, VERSIONS, KEY_SHARE = 10, 13, 16, 43, 51
TLS13_CIPHERS = (0x1301, 0x1302, 0x1303)


def _vector(data: bytes, size: int = 2) -> bytes:
    return len(data).to_bytes(size) + data


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(2) for number in numbers)


def _extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(body)


def _record(kind: int, body: bytes) -> bytes:
    message = bytes([kind]) + _vector(body, 3)
    return b"\x16\x03\x03" + _vector(message)


def key_share(group: int, size: int = 1024) -> tuple[int, bytes]:
    """A key share of random bytes: for ffdhe8192 it is as good as any other."""
    return group, b"\x7f" + random.Random(size).randbytes(size - 1)


def client_hello(
    groups: Sequence[int],
    shares: Sequence[tuple[int, bytes]] = (),
    *,
    ciphers: Sequence[int] = TLS13_CIPHERS,
    version: int = 0x0304,
    extra: bytes = b"",
) -> bytes:
    """A ClientHello in one record."""
    sent = b"".join(group.to_bytes(2) + _vector(share) for group, share in shares)
    found = _extension(SUPPORTED_GROUPS, _vector(_numbers(groups)))
    found += _extension(SIGNATURES, _vector(_numbers((0x0403, 0x0804, 0x0807, 0x0401))))
    found += _extension(ALPN, _vector(_vector(b"fastnode/1", 1)))
    if version == 0x0304:
        found += _extension(VERSIONS, _vector(_numbers((version,)), 1))
        found += _extension(KEY_SHARE, _vector(sent))
    else:
        found += _extension(11, b"\x01\x00")  # uncompressed points
    body = b"\x03\x03" + random.Random(1).randbytes(32) + _vector(bytes(32), 1)
    body += _vector(_numbers(ciphers)) + b"\x01\x00" + _vector(found + extra)
    return _record(CLIENT_HELLO, body)


def _split(hello: bytes) -> tuple[bytes, bytes]:
    """The session id and the extensions of a ClientHello in one record."""
    assert hello[5] == CLIENT_HELLO
    at = 5 + 4 + 2 + 32
    session = hello[at + 1 : at + 1 + hello[at]]
    at += 1 + len(session)
    at += 2 + int.from_bytes(hello[at : at + 2])
    at += 1 + hello[at]
    return session, hello[at + 2 :]


def extensions_of(hello: bytes) -> dict[int, bytes]:
    """The extensions of a ClientHello in one record."""
    _, rest = _split(hello)
    found = {}
    while rest:
        size = int.from_bytes(rest[2:4])
        found[int.from_bytes(rest[:2])] = rest[4 : 4 + size]
        rest = rest[4 + size :]
    return found


def hello_retry_request(hello: bytes, group: int, cipher: int = 0x1302) -> bytes:
    """Ask a client for a key share of some group, whether it offered that or not."""
    session, _ = _split(hello)
    found = _extension(VERSIONS, b"\x03\x04")
    found += _extension(KEY_SHARE, group.to_bytes(2))
    body = b"\x03\x03" + RETRY + _vector(session, 1)
    return _record(SERVER_HELLO, body + cipher.to_bytes(2) + b"\0" + _vector(found))


def server_hello_12(hello: bytes, cipher: int) -> bytes:
    """Answer a client by TLS 1.2, whatever it offered."""
    session, _ = _split(hello)
    body = b"\x03\x03" + random.Random(2).randbytes(32) + _vector(session, 1)
    return _record(SERVER_HELLO, body + cipher.to_bytes(2) + b"\0" + _vector(b""))
