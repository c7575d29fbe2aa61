"""TLS engines of both kinds, two of which talk to each other in memory."""

from __future__ import annotations

import ssl
from typing import Any

from fastnode.certs.certificate import Certificate
from fastnode.certs.context import make_client_context, make_server_context
from fastnode.openssl.handle import wrap
from fastnode.tls.direct import DirectEngine
from fastnode.tls.engine import TlsEngine
from fastnode.tls.memory_bio import MemoryBioEngine
from helpers.nodes import A
from helpers.pki import certificate, pool

__all__ = ["HOST", "TLS12", "TLS13", "contexts", "direct", "memory_bio", "shake"]

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
#: Whom `contexts` dials.
HOST = A.partition("@")[2]


def contexts(
    shown: Certificate | None = None, version: ssl.TLSVersion = TLS13
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a dialer that shows this certificate, and of an acceptor."""
    dialing = make_client_context(
        shown or certificate(A),
        root_cas=pool(),
        minimum_version=version,
        insecure_skip_verify=False,
    )
    accepting = make_server_context(
        certificate(A),
        verify_mode=ssl.CERT_REQUIRED,
        client_cas=pool(),
        minimum_version=version,
    )
    if version is TLS12:
        dialing.maximum_version = TLS12
    return dialing, accepting


def direct(context: ssl.SSLContext, name: str | None, **details: Any) -> TlsEngine:
    """One that dials `name`, or accepts."""
    handle = wrap(context, server_side=name is None, server_name=name)
    assert handle is not None
    return DirectEngine(handle, server_side=name is None, **details)


def memory_bio(context: ssl.SSLContext, name: str | None) -> TlsEngine:
    """The same."""
    return MemoryBioEngine(context, server_side=name is None, server_name=name)


def shake(near: TlsEngine, far: TlsEngine, *, judged: bool = True) -> None:
    """Carry the handshake of a dialer and an acceptor between them."""
    near.receive(b"")
    for _ in range(3):
        far.receive(near.sent())
        near.receive(far.sent())
    if judged:
        near.judged()
        far.judged()
