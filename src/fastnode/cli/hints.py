"""Hints of the library, in words of the command.

The library tells Python programs which setting helps. A user of the command cannot set
it, so the command shows the option that does the same, or what else helps. The table
is here in one place. ``tests/unit/cli/test_hints.py`` walks through all hints of the
library and finds those that the table forgets.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["by_options"]

#: Words of the library, and words of the command. The first rows are replaced first.
_OPTIONS: Final = {
    # Trust of this side, and of the other side, which may be any program.
    "this dialer's root_cas": "--ca",
    "this acceptor's client_cas": "the acceptor's --ca",
    "the acceptor's client_cas": "the acceptor's trusted authorities",
    "the dialer's root_cas": "the dialer's trusted authorities",
    "set client_cas to the pool that signs client certificates": "give --ca",
    (
        ": add that one too, or make the pool with partial_chains=True, which trusts "
        "an intermediate by itself"
    ): ": add that one too",
    ": it must hold the root too, or be made with partial_chains=True": (
        ": it must hold the root too"
    ),
    " (partial_chains=True trusts it by itself)": "",
    "; add its issuer to the pool, or make the pool with partial_chains=True": (
        "; add its issuer to --ca"
    ),
    # Certificates and keys.
    "give this node's cert manager a certificate": "give --cert and --key",
    "give the dialing node's cert manager a certificate": (
        "give the dialing node a certificate with --cert and --key"
    ),
    (
        "pass NodeOptions(cert_manager=...); NetworkOptions(plaintext=True) does "
        "without TLS, and without any protection"
    ): "give --cert, --key and --ca",
    "pass NodeOptions(cert_manager=..., network=...)": "give --cert, --key and --ca",
    "the peer must renew it, and if it is a node, update() its manager": (
        "the peer must renew it and show the new one"
    ),
    "renew it, and update() this node's manager": "renew it and give the new --cert",
    "pass its password; if it has none, the file is damaged": (
        "the command takes files without a password: openssl pkcs12 -nodes -in FILE "
        "-out FILE.pem; if it has none, the file is damaged"
    ),
    "pass its password": (
        "the command takes keys without a password: openssl pkey -in FILE -out FILE.pem"
    ),
    "; renew it and give the new one to update(), or let watch() follow it": (
        "; renew it, and start the command with the new one"
    ),
    # `fastnode listen` renews its links.
    (
        "; links that are up keep the old one, until node.reconnect() or "
        'NodeOptions(renew_links="reconnect") replaces them'
    ): "; links that are up are renewed",
    "use Certificate.load_pkcs12, or convert it with openssl": (
        "convert it: openssl pkcs12 -nodes -in FILE -out FILE.pem"
    ),
    "load it with CertPool.load_crl, out of a file of its own": (
        "take it out of the file: the command reads no revocation lists"
    ),
    # Names and addresses.
    "set server_name or a SAN": "give --name, or issue it with --dns or --ip",
    "dial a host, or set server_name": "dial a host, or give --name",
    "the port belongs into a Route, or into AcceptorOptions.port": (
        "give the port with --route HOST:PORT, or with --port of 'fastnode listen'"
    ),
    "add a Route": "give --route HOST:PORT",
    "or mend its route": "or correct --route HOST:PORT",
    "is the route or the resolver right?": "is --route right?",
    "is the route right?": "is --route right?",
    "correct the route or the name": "correct --route or the name",
    "give AcceptorOptions.host an address": "give --host an address",
    "stop what listens there, widen port_range, or use port 0": (
        "stop what listens there, or give another --port; --port 0 takes any free one"
    ),
    "send to it (confirm=True waits until it was handed over)": "use 'fastnode send'",
    ", or use NodeOptions.group": "",
    # TLS.
    " (NetworkOptions.groups)": "",
    "compare NetworkOptions.groups": "compare their TLS libraries",
    "TLS 1.3 is the default; minimum_version allows 1.2": "the peer needs TLS 1.3",
    # Sizes and limits.
    "await link.drain(), or send with Node.send, which waits for room": (
        "send less in one message, with --chunk"
    ),
    "await link.drain(), or raise max_queued": "send less in one message, with --chunk",
    "await link.drain(), or raise max_node_queued": (
        "send less in one message, with --chunk"
    ),
    "or raise max_pending, or the number of file descriptors, of the acceptor": (
        "or raise the limits of the acceptor"
    ),
    "or raise max_links_per_peer of the acceptor": "or close links to the acceptor",
    "or raise max_links of the acceptor": "or close links to the acceptor",
    (
        "where good peers come at once, raise max_pending or the number of file "
        "descriptors (ulimit -n); else see who opens so many connections"
    ): "see who opens so many connections, or allow more file descriptors (ulimit -n)",
    (
        "raise max_handshakes or max_handshakes_per_address, or see who opens so many "
        "connections"
    ): "see who opens so many connections",
    "await what takes so long, or use a thread": "is this machine overloaded?",
}
#: The same for words that vary.
_PATTERNS: Final = (
    (
        re.compile(
            r"raise max_message_size on [^,]*, or (send it|have it sent) in parts"
        ),
        "send less in one message, with --chunk of 'fastnode send'",
    ),
)


def by_options(text: str | None) -> str:
    """Return a text of the library that names options of commands instead of settings
    of the library; "" for None."""
    said = text or ""
    for setting, option in _OPTIONS.items():
        said = said.replace(setting, option)
    for pattern, option in _PATTERNS:
        said = pattern.sub(option, said)
    return said
