"""TLS handshakes in memory: two contexts, no socket."""

from __future__ import annotations

import ssl


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a whole handshake, each having read what the other sent last.

    Raises:
        ssl.SSLError: one of them refused.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    a = server.wrap_bio(to_server, to_client, server_side=True)
    b = client.wrap_bio(to_client, to_server, server_hostname=name)
    pending = [b, a]
    for _ in range(10):
        for end in list(pending):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(end)
        if not pending:
            break
    assert not pending, "the handshake did not end"
    # In TLS 1.3 the client hears only now whether its certificate was accepted.
    a.write(b"x")
    assert b.read(1) == b"x"
    return a, b
