"""Shared by the programs here: who a program is, and where it finds the others.

Environment variables hold the settings. So the same programs run on one machine
(run.py), in Docker (compose.yaml) and in Kubernetes (kubernetes/).

NODE_NAME   the node name, ``service@host``. Instances of a service may share it.
CERTS       a directory with ``tls.crt``, ``tls.key`` and ``ca.crt``. cert-manager
            gives these names to the files of a Secret.
LISTEN      ``host:port``. Port 0 takes a free one.
DISCOVERY   ``local:DIRECTORY``, ``dns:PORT`` or ``srv:DOMAIN``.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastnode import (
    AcceptorOptions,
    CertAuthManager,
    Certificate,
    CertPool,
    ClientAuth,
    NetworkOptions,
    NodeOptions,
)
from fastnode.discovery import Discovery, DnsDiscovery, LocalDiscovery

#: Seconds for which an answer of the DNS is used at most. New instances are found
#: within this time, unless a cache between here and the server holds them back.
DNS_SECONDS = 5.0


def node_name() -> str:
    """Return the node name of this program."""
    return os.environ["NODE_NAME"]


def discovery() -> Discovery:
    """Return what finds the instances of services."""
    kind, _, where = os.environ["DISCOVERY"].partition(":")
    if kind == "local":
        return LocalDiscovery(where)
    if kind == "dns":
        return DnsDiscovery(port=int(where), max_ttl=DNS_SECONDS)
    if kind == "srv":
        return DnsDiscovery(srv="_fastnode._tcp", suffix=where, max_ttl=DNS_SECONDS)
    raise SystemExit(f"DISCOVERY is {kind}:..., not local:, dns: or srv:")


def options() -> NodeOptions:
    """Return the options of a node that listens."""
    host, _, port = os.environ["LISTEN"].rpartition(":")
    return node_options(AcceptorOptions(host=host, port=int(port)))


def node_options(*acceptors: AcceptorOptions) -> NodeOptions:
    """Return the options of a node: mutual TLS, and certificates that are followed."""
    folder = Path(os.environ["CERTS"])
    cert, key = folder / "tls.crt", folder / "tls.key"
    pool = CertPool.load(folder / "ca.crt")
    manager = CertAuthManager(
        Certificate.load(cert, key),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )
    manager.watch(cert, key)
    return NodeOptions(
        cert_manager=manager,
        network=NetworkOptions(acceptors=acceptors, discovery=discovery()),
        # When a certificate is renewed, the links take the new one too.
        renew_links="reconnect",
    )
