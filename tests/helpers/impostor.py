"""TLS 1.3 peers that show certificates which no library would load, without any key.

OpenSSL makes the handshake up to the place where the impostor would show its
certificate. What follows is made here, under the secret that OpenSSL writes to a key
log. So an impostor can show any bytes, and any signature.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from helpers.forge import HANDSHAKE, Traffic, traffic_secret
from helpers.strangers import records

__all__ = ["ImpostorClient", "ImpostorServer", "certificate_message"]

CERTIFICATE_REQUEST, CERTIFICATE, CERTIFICATE_VERIFY = 13, 11, 15
APPLICATION_DATA = 23
RECORD_BYTES = 1 << 14
#: rsa_pss_rsae_sha256 and ecdsa_secp256r1_sha256 (RFC 8446, 4.2.3).
RSA_PSS, ECDSA_P256 = 0x0804, 0x0403

_numbers = count()


def message(kind: int, body: bytes) -> bytes:
    """A handshake message."""
    return bytes([kind]) + len(body).to_bytes(3) + body


def certificate_message(chain: Sequence[bytes], *, tls13: bool = True) -> bytes:
    """A Certificate message with these certificates, DER."""
    after = b"\0\0" if tls13 else b""
    entries = b"".join(len(der).to_bytes(3) + der + after for der in chain)
    context = b"\0" if tls13 else b""
    return message(CERTIFICATE, context + len(entries).to_bytes(3) + entries)


def _signature(algorithm: int, size: int) -> bytes:
    signed = algorithm.to_bytes(2) + size.to_bytes(2) + b"\x01" * size
    return message(CERTIFICATE_VERIFY, signed)


class _Impostor:
    def __init__(self, folder: Path, protocol: int) -> None:
        self._key_log = folder / f"impostor-{next(_numbers)}.keys"
        self._context = ssl.SSLContext(protocol)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.set_alpn_protocols(["fastnode/1"])
        self._context.keylog_filename = str(self._key_log)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def _traffic(self, side: str) -> Traffic:
        return Traffic(traffic_secret(self._key_log, side, handshake=True))

    @staticmethod
    def _sealed(traffic: Traffic, data: bytes) -> bytes:
        return b"".join(
            traffic.close(data[at : at + RECORD_BYTES], HANDSHAKE)
            for at in range(0, len(data), RECORD_BYTES)
        )


class ImpostorClient(_Impostor):
    """A dialer.

    Args:
        folder: where key logs are written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._tls = self._context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="127.0.0.1"
        )

    def hello(self) -> bytes:
        """Its ClientHello."""
        assert not self._advance()
        return self._outgoing.read()

    def ready(self, data: bytes) -> bool:
        """Take what the acceptor sent; whether it was all of it."""
        self._incoming.write(data)
        return self._advance()

    def _advance(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def told(self) -> str:
        """The reason of the alert that came."""
        try:
            self._tls.read(1)
        except ssl.SSLError as error:
            return error.reason or str(error)
        return ""

    def show(
        self, chain: Sequence[bytes], *, algorithm: int = ECDSA_P256, size: int = 70
    ) -> bytes:
        """Certificates, and a signature of `size` bytes that is none."""
        self._outgoing.read()
        shown = certificate_message(chain) + _signature(algorithm, size)
        return self._sealed(self._traffic("CLIENT"), shown)


class ImpostorServer(_Impostor):
    """An acceptor.

    Args:
        folder: where key logs are written.
        certificate: a certificate with its key, PEM, for the part that is not forged.
    """

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__(folder, ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._tls = self._context.wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )

    def show(
        self,
        hello: bytes,
        chain: Sequence[bytes],
        *,
        request: bytes | None = None,
        algorithm: int = ECDSA_P256,
        size: int = 70,
    ) -> bytes:
        """Answer a ClientHello with these certificates, and no signature.

        Args:
            request: extensions of a CertificateRequest that is sent before them.
        """
        self._incoming.write(hello)
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        sent = records(self._outgoing.read())
        plain = [record for record in sent if record[0] != APPLICATION_DATA]
        sealed = next(record for record in sent if record[0] == APPLICATION_DATA)
        extensions, _ = self._traffic("SERVER").open(sealed)
        size_of_first = 4 + int.from_bytes(extensions[1:4])
        shown = extensions[:size_of_first]
        if request is not None:
            shown += message(
                CERTIFICATE_REQUEST, b"\0" + len(request).to_bytes(2) + request
            )
        shown += certificate_message(chain) + _signature(algorithm, size)
        return b"".join(plain) + self._sealed(self._traffic("SERVER"), shown)
