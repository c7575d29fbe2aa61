"""Certificates for a run: one authority, one certificate for each side, on disk.

The same files serve all contenders, so that all do the same cryptography: ECDSA with
P-256, TLS 1.3, both sides verify.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SERVER = "server@127.0.0.1"


def make(folder: Path, clients: int = 1) -> None:
    """Write the authority's certificate and those of the server and the clients."""
    authority = Authority.create("bench CA")
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    for name in [SERVER, *(client_name(number) for number in range(clients))]:
        issued = authority.issue(NodeName.parse(name))
        issued.save(folder / f"{name}.pem", folder / f"{name}-key.pem")


def client_name(number: int = 0) -> str:
    """The node name of a client."""
    return f"client{number}@127.0.0.1"


def manager(folder: Path, name: str) -> CertAuthManager:
    """What a fastnode node needs."""
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


def context(folder: Path, name: str, *, server: bool) -> ssl.SSLContext:
    """What everybody else needs, as the standard library's documentation sets it up."""
    made = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    )
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return made
