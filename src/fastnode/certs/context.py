"""The only place where an `ssl.SSLContext` is made.

A context is complete when it is returned and is never changed afterwards: each change
of certificate or trust makes new ones (mutating a context that is in use, or
switching it in an SNI callback, was measured to let clients without a certificate
past CERT_REQUIRED, and to crash the interpreter).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from fastnode.errors import ConfigError

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate
    from fastnode.certs.pool import CertPool

__all__ = ["ALPN_PROTOCOL", "make_client_context", "make_server_context"]

#: RFC 7301; the number is that of the wire format.
ALPN_PROTOCOL: Final = "fastnode/1"

#: For TLS 1.2, when it is asked for: forward secrecy and AEAD only (RFC 9325, 4.2).
TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


def make_server_context(
    certificate: Certificate,
    *,
    verify_mode: ssl.VerifyMode,
    client_cas: CertPool | None,
    minimum_version: ssl.TLSVersion,
) -> ssl.SSLContext:
    """A context for accepted connections."""
    context = _bare(ssl.PROTOCOL_TLS_SERVER, minimum_version)
    certificate.load_into(context)
    # A ticket would let a client in by an earlier judgement.
    context.num_tickets = 0
    if verify_mode is not ssl.CERT_NONE and client_cas is not None:
        _trust(context, client_cas, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = verify_mode
    return context


def make_client_context(
    certificate: Certificate | None,
    *,
    root_cas: CertPool | None,
    minimum_version: ssl.TLSVersion,
    insecure_skip_verify: bool,
) -> ssl.SSLContext:
    """A context for dialed connections; `root_cas` None: the system's."""
    context = _bare(ssl.PROTOCOL_TLS_CLIENT, minimum_version)
    if certificate is not None:
        certificate.load_into(context)
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if root_cas is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, root_cas, ssl.Purpose.SERVER_AUTH)
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bare(protocol: int, minimum_version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = minimum_version
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= (
        ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    )
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # RFC 9525, 6.3: only SANs name a server.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([ALPN_PROTOCOL])
    return context


def _trust(context: ssl.SSLContext, pool: CertPool, purpose: ssl.Purpose) -> None:
    if not pool.is_system and not len(pool):
        raise ConfigError(
            "a pool without certificates trusts nobody",
            hint="add an authority to it before the manager is used",
        )
    if pool.is_system:
        context.load_default_certs(purpose)
    if len(pool):
        context.load_verify_locations(cadata=pool.pem)
