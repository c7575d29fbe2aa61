"""A throwaway certificate authority for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fastnode import CertAuthManager, Certificate, ClientAuth, ConfigError
from fastnode.certs.authority import CA_FILE, Authority, write_new
from fastnode.names import NodeName

__all__ = ["CertificateFiles", "ThrowawayAuthority", "authority"]


class CertificateFiles(NamedTuple):
    """The files that a service reads, as `ThrowawayAuthority.write` wrote them.

    Attributes:
        ca: the certificate of the authority, PEM.
        certificate: the certificate of the node, PEM.
        key: its private key, PEM, not encrypted, readable by its owner only.
    """

    ca: Path
    certificate: Path
    key: Path


class ThrowawayAuthority(Authority):
    """An authority that only the tests of one process trust. `authority` makes it.

    Its key is in memory only, unless you call `save`.
    """

    def certificate(self, name: str, **details: Any) -> Certificate:
        """Issue a certificate for a node.

        Args:
            name: the node name, ``name@host``. The certificate covers this name and
                its host.
            details: as `Authority.issue` takes them, for certificates that peers
                refuse. For example, ``uri=False, host=False, dns=["other"]`` makes a
                certificate that does not cover the name.

        Raises:
            ConfigError: the name or a detail cannot be in a certificate.
        """
        return self.issue(NodeName.parse(name), **details).certificate()

    def manager(
        self,
        name: str | None,
        *,
        certificate: Certificate | None = None,
        client_auth: ClientAuth = ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        **options: Any,
    ) -> CertAuthManager:
        """Make a cert manager for mutual TLS, which trusts this authority alone.

        Args:
            name: the name of the node that uses it. None makes a manager that shows no
                certificate, and so can only dial.
            certificate: what it shows. The default is a new one for `name`.
            client_auth: what an acceptor demands of dialers.
            options: further arguments of `CertAuthManager`.

        Raises:
            ConfigError: the name is not a node name.
        """
        if certificate is None and name is not None:
            certificate = self.certificate(name)
        # One pool for both directions: a pool costs as much as a certificate.
        pool = self.pool()
        options = {"client_cas": pool, "root_cas": pool, **options}
        return CertAuthManager(certificate, client_auth=client_auth, **options)

    def write(
        self, directory: Path | str, name: str, **details: Any
    ) -> CertificateFiles:
        """Write the files that a service with this node name needs.

        Call it again to renew the certificate. Then files that were there before are
        kept with ``.old`` behind their names, and a service that watches its files
        takes the new ones. The key of the authority itself is not written.

        Args:
            directory: where; it is made if it does not exist. Use a directory that
                your test framework removes.
            name: the node name, ``name@host``.
            details: as `Authority.issue` takes them.

        Raises:
            ConfigError: the files cannot be written, or the directory has the
                certificate of another authority.
        """
        issued = self.issue(NodeName.parse(name), **details)
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            ca = folder / CA_FILE
            known = ca.read_bytes() if ca.exists() else None
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        if known != self.cert_pem:
            write_new({ca: (self.cert_pem, 0o644)})
        files = CertificateFiles(ca, folder / f"{name}.pem", folder / f"{name}-key.pem")
        issued.replace(files.certificate, files.key)
        return files


def authority(name: str = "fastnode test CA") -> ThrowawayAuthority:
    """Make a throwaway authority, with a new P-256 key.

    Each call makes another one, and nodes of one authority refuse those of another.
    It takes less than a millisecond.

    Args:
        name: the Common Name in its certificate, for logs and errors.

    Raises:
        ConfigError: the name is empty.
    """
    return ThrowawayAuthority.create(name)
