"""What the two sides of a refused handshake are told, without sockets."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from fastnode import CertAuthManager, FastnodeError
from fastnode.openssl.verdict import Verdict
from fastnode.openssl.verification import expect_verdict, take_verdict
from fastnode.tls.evidence import Evidence
from fastnode.tls.refusal import local_refusal

__all__ = ["handshake", "hints", "outcome", "refuse"]


def handshake(
    dialer: CertAuthManager, acceptor: CertAuthManager, host: str = "10.0.0.5"
) -> tuple[list[FastnodeError | None], list[Verdict | None]]:
    """The errors, and the verdicts on the other side, of the dialer and of the
    acceptor in a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        dialer.client_context().wrap_bio(to_client, to_server, server_hostname=host),
        acceptor.server_context().wrap_bio(to_server, to_client, server_side=True),
    )
    managers, pools = (dialer, acceptor), (dialer.root_cas, acceptor.client_cas)
    verdicts: list[Verdict | None] = [None, None]
    errors: list[FastnodeError | None] = [None, None]
    for step in range(8):
        side = step % 2
        if errors[side] is not None:
            continue
        expect_verdict()
        try:
            with suppress(ssl.SSLWantReadError):
                ends[side].do_handshake()
                ends[side].read(1)
        except ssl.SSLError as error:
            verdicts[side] = take_verdict() or verdicts[side]
            errors[side] = local_refusal(
                error,
                Evidence(
                    dialer=side == 0,
                    peer="p",
                    server_name=host,
                    shown=managers[side].certificate,
                    pool=pools[side],
                    verdict=verdicts[side],
                ),
            )
        verdicts[side] = take_verdict() or verdicts[side]
    return errors, verdicts


def outcome(
    *arguments: Any, **options: Any
) -> tuple[FastnodeError | None, FastnodeError | None]:
    """The errors of the dialer and of the acceptor in a handshake in memory."""
    dialer, acceptor = handshake(*arguments, **options)[0]
    return dialer, acceptor


def refuse(*arguments: Any, **options: Any) -> tuple[FastnodeError, FastnodeError]:
    """As `outcome`, of a handshake that both sides hear to be refused."""
    dialer, acceptor = outcome(*arguments, **options)
    assert dialer is not None
    assert acceptor is not None
    return dialer, acceptor


def hints(*arguments: Any, **options: Any) -> tuple[str, str]:
    """The hints of the dialer and of the acceptor."""
    dialer, acceptor = refuse(*arguments, **options)
    return dialer.hint or "", acceptor.hint or ""
