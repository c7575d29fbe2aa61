"""Throwaway certificates for the programs here. Not for production.

Run: python certificates.py DIRECTORY NAME@HOST...

Each service gets a directory with the files that a Secret of cert-manager would have.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastnode.certs.authority import Authority
from fastnode.names import NodeName


def make_certificates(folder: Path, names: Sequence[str], *, host: bool) -> None:
    """Make ``tls.crt``, ``tls.key`` and ``ca.crt`` for each service.

    Nobody keeps the key of the authority, so it can issue nothing later.

    Args:
        folder: gets a directory for each service.
        names: the node names, ``service@host``.
        host: whether the certificates name the hosts too, besides the URIs.
    """
    authority = Authority.create()
    for name in map(NodeName.parse, names):
        files = folder / name.name
        files.mkdir(exist_ok=True)
        issued = authority.issue(name, host=host)
        issued.save(files / "tls.crt", files / "tls.key")
        (files / "ca.crt").write_bytes(authority.cert_pem)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    # The files of an earlier start stay in use.
    if not any(directory.glob("*/tls.crt")):
        make_certificates(directory, sys.argv[2:], host=True)
