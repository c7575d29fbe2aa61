"""Names of the files that ``fastnode ca issue`` writes for a node.

The names have only characters that a key of a Kubernetes secret may have
(``[-._a-zA-Z0-9]+``). So ``kubectl create secret generic NAME --from-file=DIR`` takes
a directory of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from fastnode.names import NodeName

__all__ = ["NodeFiles", "file_stem", "files_of"]

#: Characters of a node name that a key of a Kubernetes secret may not have: the colons
#: and the % of an IPv6 address.
_NOT_FOR_KEYS = re.compile(r"[^-._a-zA-Z0-9]")


class NodeFiles(NamedTuple):
    """The certificate and the key of a node.

    Attributes:
        cert: the certificate chain, PEM.
        key: the private key, PEM.
    """

    cert: Path
    key: Path

    def exist(self) -> bool:
        """Whether one of the two is there."""
        return any(path.exists() or path.is_symlink() for path in self)


def file_stem(name: NodeName) -> str:
    """Return what the names of the files of a node begin with.

    ``orders@10.0.0.5`` has the stem ``orders_10.0.0.5``.
    """
    return f"{name.name}_{_NOT_FOR_KEYS.sub('-', name.host)}"


def files_of(directory: Path, name: NodeName) -> NodeFiles:
    """Return the files of a node in a directory.

    Earlier versions named the files after the node, as in ``orders@10.0.0.5.pem``. If
    only such files are in the directory, they are returned.
    """
    files = _named(directory, file_stem(name))
    earlier = _named(directory, str(name))
    return earlier if earlier.exist() and not files.exist() else files


def _named(directory: Path, stem: str) -> NodeFiles:
    return NodeFiles(directory / f"{stem}.pem", directory / f"{stem}-key.pem")
