"""TLS 1.3 records that no library writes: empty ones, and KeyUpdates in any number.
And those that one wrote, opened.

The handshake is Python's own `ssl`; what comes after it is encrypted here, with the
secret that the `ssl` module writes to a key log (RFC 8446, sections 5 and 7).
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from helpers.nodes import WAIT_SECONDS

__all__ = [
    "APPLICATION_DATA",
    "HANDSHAKE",
    "KEY_UPDATE",
    "Forger",
    "Traffic",
    "traffic_secret",
]

APPLICATION_DATA, HANDSHAKE = 23, 22
KEY_UPDATE = 24
SECRET_BYTES = 48


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label, without a context."""
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def traffic_secret(
    key_log: Path, side: str = "CLIENT", *, handshake: bool = False
) -> bytes:
    """What one side's keys are made of: of the only connection in a key log.

    Args:
        handshake: the keys of the handshake, not those that come after it.
    """
    label = f"{side}_HANDSHAKE_TRAFFIC_SECRET " if handshake else (
        f"{side}_TRAFFIC_SECRET_0 "
    )  # fmt: skip
    (line,) = (
        line for line in key_log.read_text().splitlines() if line.startswith(label)
    )
    return bytes.fromhex(line.split()[2])


class Traffic:
    """One direction of a connection: keys, and the number of the next record."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) == SECRET_BYTES
        self._secret, self._number = secret, 0
        self._key = AESGCM(_expand(secret, b"key", 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12))

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return nonce

    def close(self, data: bytes, kind: int) -> bytes:
        """One encrypted record."""
        inner = data + bytes([kind])
        head = bytes([APPLICATION_DATA, 3, 3]) + (len(inner) + 16).to_bytes(2)
        return head + self._key.encrypt(self._nonce(), inner, head)

    def open(self, record: bytes) -> tuple[bytes, int]:
        """What is in a record, and its kind.

        Raises:
            cryptography.exceptions.InvalidTag: it is not the next one under this key.
        """
        inner = self._key.decrypt(self._nonce(), record[5:], record[:5])
        return inner[:-1], inner[-1]

    def renew(self) -> None:
        """What follows a KeyUpdate."""
        Traffic.__init__(self, _expand(self._secret, b"traffic upd", SECRET_BYTES))


class Forger:
    """A client that has shaken hands; what it sends is up to the caller.

    Attributes:
        alert: the reason of the alert that ended the connection; "" before that.
    """

    _traffic: Traffic
    alert = ""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext,
    ) -> None:
        self.reader, self.writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="127.0.0.1"
        )

    @classmethod
    async def connect(
        cls, address: tuple[str, int], context: ssl.SSLContext, key_log: Path
    ) -> Forger:
        """Connect and shake hands; the context becomes one that logs its keys."""
        context.keylog_filename = str(key_log)
        reader, writer = await asyncio.open_connection(*address)
        self = cls(reader, writer, context)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    self._ssl.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(self._outgoing.read())
                    self._incoming.write(await reader.read(65536))
        writer.write(self._outgoing.read())
        assert self._ssl.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        self._traffic = Traffic(traffic_secret(key_log))
        return self

    def record(self, data: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """One encrypted record; its data may be empty."""
        return self._traffic.close(data, kind)

    def key_update(self, *, asks: bool) -> bytes:
        """A KeyUpdate; what comes after it is under the next key."""
        sent = self.record(bytes([KEY_UPDATE, 0, 0, 1, asks]), HANDSHAKE)
        self._traffic.renew()
        return sent

    async def read(self) -> bytes:
        """Some plaintext of the other side; b"" at its end."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return self._ssl.read(65536)
                except ssl.SSLWantReadError:
                    data = await self.reader.read(65536)
                    if not data:
                        return b""
                    self._incoming.write(data)
                except ssl.SSLError as error:
                    self.alert = error.reason or ""
                    return b""

    def close(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()
