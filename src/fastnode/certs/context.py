"""The only place where a context for links is made.

A context is complete when it is returned and is never changed afterwards: each change
of certificate or trust makes new ones (mutating a context that is in use, or
switching it in an SNI callback, was measured to let clients without a certificate
past CERT_REQUIRED, and to crash the interpreter).

Where the interpreter's OpenSSL can be reached, each context gets the callback of
`fastnode.openssl.verification`: it makes the two modes possible that ask for a
certificate without verifying it, and says which certificate was refused, and why.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

from fastnode.certs.groups import limit_groups
from fastnode.certs.key_file import named_file
from fastnode.errors import ConfigError, is_exhaustion, out_of_resources
from fastnode.limits import MAX_CLIENT_CHAIN_BYTES, MAX_SERVER_CHAIN_BYTES
from fastnode.openssl.verification import HookedContext, why_unavailable

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate
    from fastnode.certs.pool import CertPool

__all__ = ["ALPN_PROTOCOL", "make_client_context", "make_server_context"]

#: RFC 7301; the number is that of the wire format.
ALPN_PROTOCOL: Final = "fastnode/1"

#: For TLS 1.2, when it is asked for: forward secrecy and AEAD only (RFC 9325, 4.2).
TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: SSL_OP_NO_RX_CERTIFICATE_COMPRESSION of OpenSSL 3.2 and newer; Python has no name for
#: it. Only a message that is not compressed can be looked at before it is read.
NO_COMPRESSED_CERTIFICATES: Final = 1 << 33

#: Authorities that an acceptor names to clients; each costs some 50 bytes of every
#: handshake.
MOST_NAMED: Final = 64


def make_server_context(
    certificate: Certificate,
    *,
    verify_mode: ssl.VerifyMode,
    client_cas: CertPool | None,
    minimum_version: ssl.TLSVersion,
    accept_any: bool = False,
    groups: tuple[str, ...] | None = None,
    keep_chains: bool = False,
) -> ssl.SSLContext:
    """Make a context for accepted connections.

    Args:
        verify_mode: whether a client certificate is asked for, and required.
        accept_any: take any, unverified.
        groups: key-exchange groups, canonical names, best first; None: the default.
        keep_chains: the verdict on a dialer has all certificates that it presented.

    Raises:
        ConfigError: `accept_any` is asked for where OpenSSL cannot be reached,
            certificates are to be verified against an empty pool, or OpenSSL does not
            have one of the groups.
    """
    context, hook = _bare(ssl.PROTOCOL_TLS_SERVER, minimum_version, groups)
    certificate.load_into(context)
    # A ticket would let a client in by an earlier judgement.
    context.num_tickets = 0
    trusted = None
    if verify_mode is not ssl.CERT_NONE and not accept_any:
        trusted = client_cas
    if trusted is not None:
        _trust(context, trusted, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = verify_mode
    if hook is not None:
        hook.install(
            accept_any=accept_any,
            allow_missing_crls=trusted is not None,
            keep_chains=keep_chains and trusted is not None,
        )
        hook.require_alpn(ALPN_PROTOCOL.encode())
        hook.no_session_cache()
        hook.limit_certificates(MAX_CLIENT_CHAIN_BYTES)
        if trusted is not None:
            _name(hook, trusted)
    elif accept_any:
        raise ConfigError(cannot_accept_any() or "OpenSSL cannot be reached")
    return context


def make_client_context(
    certificate: Certificate | None,
    *,
    root_cas: CertPool | None,
    minimum_version: ssl.TLSVersion,
    insecure_skip_verify: bool,
    verify_server_name: bool = True,
    groups: tuple[str, ...] | None = None,
    alpn: str = ALPN_PROTOCOL,
) -> ssl.SSLContext:
    """Make a context for dialed connections.

    Args:
        root_cas: None means the system's authorities.
        groups: as for `make_server_context`.
        alpn: the protocol that is spoken on the connections.
    """
    context, hook = _bare(ssl.PROTOCOL_TLS_CLIENT, minimum_version, groups, alpn)
    if certificate is not None:
        certificate.load_into(context)
    if hook is not None:
        hook.install(allow_missing_crls=True)
        hook.limit_certificates(MAX_SERVER_CHAIN_BYTES)
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if root_cas is None:
        _trust_system(context, ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, root_cas, ssl.Purpose.SERVER_AUTH)
    context.check_hostname = verify_server_name
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def cannot_accept_any() -> str | None:
    """Why certificates cannot be asked for without verifying them; None: they can."""
    reason = why_unavailable()
    if reason is None:
        return None
    return (
        "Python's ssl cannot ask for a certificate without verifying it, and the "
        f"OpenSSL of this interpreter cannot be reached: {reason}"
    )


def resumes(minimum_version: ssl.TLSVersion) -> bool:
    """Whether a server's context would resume sessions: those of TLS 1.2, from a cache
    in the context, tickets or not, which Python alone cannot turn off (measured)."""
    return (
        minimum_version is not ssl.TLSVersion.TLSv1_3 and why_unavailable() is not None
    )


def _bare(
    protocol: int,
    minimum_version: ssl.TLSVersion,
    groups: tuple[str, ...] | None,
    alpn: str = ALPN_PROTOCOL,
) -> tuple[ssl.SSLContext, HookedContext | None]:
    hook = HookedContext(protocol) if why_unavailable() is None else None
    context = ssl.SSLContext(protocol) if hook is None else hook.context
    context.minimum_version = minimum_version
    context.set_ciphers(TLS12_CIPHERS)
    limit_groups(context, hook, groups)
    context.options |= (
        ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    )
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # RFC 9525, 6.3: only SANs name a server.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([alpn])
    if hook is not None:
        context.options |= NO_COMPRESSED_CERTIFICATES
        hook.no_auto_chain()
    return context, hook


def _name(hook: HookedContext, pool: CertPool) -> None:
    """Tell clients whom we trust, as other servers do, so that they can choose a
    certificate; not the hundreds of a system's pool."""
    if not pool.is_system and len(pool) <= MOST_NAMED:
        hook.name_authorities(pool.encoded)


def _trust_system(context: ssl.SSLContext, purpose: ssl.Purpose) -> None:
    """Trust the authorities of the system.

    Raises:
        OutOfResources: no descriptor is left. OpenSSL would go on without the file that
            it cannot open, and the context would trust nobody for as long as it lives.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if is_exhaustion(error):
            what = "the system's authorities cannot be read"
            raise out_of_resources(what, error) from None
    context.load_default_certs(purpose)


def _trust(context: ssl.SSLContext, pool: CertPool, purpose: ssl.Purpose) -> None:
    if not pool.is_system and not len(pool):
        raise ConfigError(
            "a pool without certificates trusts nobody",
            hint="add an authority to it before the manager is used",
        )
    if pool.is_system:
        _trust_system(context, purpose)
    if pool.partial_chains:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if len(pool):
        context.load_verify_locations(cadata=pool.pem)
    if pool.crls:
        # As text in memory (`cadata`) Python takes certificates only.
        with named_file(pool.crl_pem.encode()) as path:
            context.load_verify_locations(cafile=path)
        # Each certificate of a chain is looked up in the CRL of its issuer. Of an
        # issuer without one nothing is known, which `allow_missing_crls` lets pass.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
