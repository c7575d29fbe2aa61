"""Certificates for a run: one authority, one certificate for each side, on disk.

The same files serve all contenders, so that all do the same cryptography: ECDSA with
P-256, TLS 1.3, both sides verify. pyzmq has keys of its own kind beside them.
"""

from __future__ import annotations

import ssl
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SERVER = "server@127.0.0.1"
#: Its certificate covers the address, and so all the names that clients take there.
CLIENT = "client@127.0.0.1"


def make(folder: Path) -> None:
    """Write the authority's certificate and those of the server and the clients."""
    authority = Authority.create("bench CA")
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    for name in (SERVER, CLIENT):
        issued = authority.issue(NodeName.parse(name))
        issued.save(folder / f"{name}.pem", folder / f"{name}-key.pem")
    if find_spec("zmq"):
        from zmq.auth import create_certificates

        for name in ("server", "client"):
            create_certificates(folder, name)


def client_name(number: int = 0) -> str:
    """The node name of a client."""
    return f"client{number}@127.0.0.1"


def manager(folder: Path, name: str) -> CertAuthManager:
    """What a node of fastnode needs; those of one process share it."""
    return _manager(folder, SERVER if name == SERVER else CLIENT)


@cache
def _manager(folder: Path, name: str) -> CertAuthManager:
    pool = CertPool.load(folder / "ca.pem")
    return CertAuthManager(
        Certificate.load(folder / f"{name}.pem", folder / f"{name}-key.pem"),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


@cache
def context(folder: Path, *, server: bool) -> ssl.SSLContext:
    """What everybody else needs, as the standard library's documentation sets it up."""
    name = SERVER if server else CLIENT
    made = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    )
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return made
