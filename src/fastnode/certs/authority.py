"""A certificate authority for development and tests. Not for production: its key
lies in a file, and it keeps no record of what it issued or revoked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from fastnode.certs import signing
from fastnode.certs.certificate import Certificate
from fastnode.certs.pool import CertPool
from fastnode.errors import CertificateLoadError, ConfigError
from fastnode.names import NodeName

__all__ = ["Authority", "IssuedCertificate"]

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca-key.pem"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """What an authority issued.

    Attributes:
        cert_pem: the chain, PEM, the certificate first.
        key_pem: its private key, PEM, not encrypted.
    """

    cert_pem: bytes
    key_pem: bytes

    def certificate(self) -> Certificate:
        """As a node uses it."""
        return Certificate.from_pem(self.cert_pem, self.key_pem)

    def save(self, cert_file: Path, key_file: Path) -> None:
        """Write both files; the key is readable for its owner only.

        Raises:
            ConfigError: one of them exists, or cannot be written.
        """
        write_new({key_file: (self.key_pem, 0o600), cert_file: (self.cert_pem, 0o644)})

    def replace(self, cert_file: Path, key_file: Path) -> None:
        """Write both files in place of older ones, which are kept with ``.old`` behind
        their names. Whoever reads meanwhile finds whole files, old or new.

        Raises:
            ConfigError: they cannot be written.
        """
        key_new = key_file.with_name(key_file.name + ".new")
        cert_new = cert_file.with_name(cert_file.name + ".new")
        try:
            for left_over in (key_new, cert_new):
                left_over.unlink(missing_ok=True)
            self.save(cert_new, key_new)
            for path in (key_file, cert_file):
                if path.exists():
                    old = path.with_name(path.name + ".old")
                    old.unlink(missing_ok=True)
                    # No copy: that would be readable for all, for a moment.
                    os.link(path, old)
            key_new.replace(key_file)
            cert_new.replace(cert_file)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<IssuedCertificate {self.certificate()!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an IssuedCertificate holds a private key and is not pickled")


class Authority:
    """Signs certificates of nodes.

    Use `create`, `load` or `intermediate`.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        self._certificate = certificate
        self._key = key
        # What is sent behind an issued certificate: intermediates, never the root.
        self._chain = tuple(chain)

    @classmethod
    def create(
        cls, common_name: str = "fastnode development CA", *, days: float = 3650.0
    ) -> Self:
        """A new root with a new P-256 key.

        Raises:
            ConfigError: the common name does not have 1 to 64 characters, or `days` is
                no number of days.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = signing.common_name_only(signing.check_common_name(common_name))
        lifetime = signing.lifetime_of(days)
        now = datetime.now(UTC)
        certificate = signing.sign(
            signing.ca_builder(name, name, key, now - signing.BACKDATE, now + lifetime),
            key,
            key.public_key(),
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Load what `save` wrote.

        Raises:
            CertificateLoadError: missing or damaged.
        """
        try:
            certificate = x509.load_pem_x509_certificate(
                (directory / CA_FILE).read_bytes()
            )
            key = load_pem_private_key((directory / CA_KEY_FILE).read_bytes(), None)
        except OSError as error:
            raise CertificateLoadError(
                f"{error.filename}: {error.strerror}",
                hint="make an authority first: fastnode ca init DIR",
            ) from error
        except (ValueError, TypeError):
            raise CertificateLoadError(
                f"{directory} holds no authority that can be read",
                hint=f"{CA_FILE} or {CA_KEY_FILE} is damaged",
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificateLoadError(
                f"the key in {directory} was not made by fastnode ca init"
            )
        if key.public_key() != certificate.public_key():
            raise CertificateLoadError(
                f"{CA_KEY_FILE} is not the key of {CA_FILE} in {directory}",
                hint="restore the pair that was made together",
            )
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write ca.pem and ca-key.pem (mode 0600) into a directory.

        Raises:
            ConfigError: one of them exists, or cannot be written.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{directory}: {error.strerror}") from error
        key_pem = signing.key_pem(self._key)
        write_new(
            {
                directory / CA_KEY_FILE: (key_pem, 0o600),
                directory / CA_FILE: (self.cert_pem, 0o644),
            }
        )

    @property
    def cert_pem(self) -> bytes:
        """Its own certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def x509(self) -> x509.Certificate:
        """Its own certificate."""
        return self._certificate

    def pool(self) -> CertPool:
        """A pool that trusts this authority alone."""
        return CertPool.from_pem(self.cert_pem)

    def intermediate(self, common_name: str, *, days: float = 365.0) -> Authority:
        """An authority below this one; what it issues carries its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = signing.sign(
            signing.ca_builder(
                signing.common_name_only(signing.check_common_name(common_name)),
                self._certificate.subject,
                self._key,
                now - signing.BACKDATE,
                now + timedelta(days=days),
                length=0,
            ),
            self._key,
            key.public_key(),
        )
        return Authority(certificate, key, (certificate, *self._chain))

    def issue(
        self,
        name: NodeName | str | None = None,
        *,
        dns: Iterable[str] = (),
        ips: Iterable[str] = (),
        days: float = 90.0,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        server_auth: bool = True,
        client_auth: bool = True,
        uri: bool = True,
        host: bool = True,
        common_name: str | None = None,
        key: signing.PrivateKey | None = None,
    ) -> IssuedCertificate:
        """Issue a certificate.

        Args:
            name: the name of the node that it is for. Its URI and its host become
                SANs.
            dns, ips: further SANs. `dns` is not checked, so that tests can make
                certificates with odd names; the command checks it.
            not_before, not_after: aware; default: now, and `days` later.
            uri, host: whether the node's URI, and its host, become SANs.
            key: the key that it is for; default: a new one, P-256.

        Raises:
            ConfigError: `name` is not a node name, no SAN would be in it, or an
                address is not an IP address.
        """
        if name is not None and not isinstance(name, NodeName):
            name = NodeName.parse(name)
        sans = [f"{name.uri}"] if name is not None and uri else []
        if name is not None and host:
            sans.append(name.host)
        sans += [*dns, *map(signing.ip_address, ips)]
        if not sans:
            raise ConfigError(
                "a certificate without a subject alternative name covers nothing",
                hint="give a node name, a DNS name or an address",
            )
        now = datetime.now(UTC)
        if key is None:
            key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server_auth
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] * client_auth
        builder = signing.leaf_builder(
            signing.common_name_only(
                common_name or (str(name) if name is not None else sans[0])
            ),
            self._certificate.subject,
            self._key,
            not_before or now - signing.BACKDATE,
            not_after or now + timedelta(days=days),
            sans,
            usages,
        )
        leaf = signing.sign(builder, self._key, key.public_key())
        pem = b"".join(c.public_bytes(Encoding.PEM) for c in (leaf, *self._chain))
        return IssuedCertificate(pem, signing.key_pem(key))

    def crl(
        self,
        revoked_serials: Iterable[int] = (),
        *,
        days: float = 7.0,
        next_update: datetime | None = None,
        last_update: datetime | None = None,
    ) -> bytes:
        """A certificate revocation list (RFC 5280, 5), PEM.

        It is complete: what an earlier one revoked has to be named again.

        Args:
            revoked_serials: serial numbers of certificates that this authority issued.
            days: how long it is valid from now, unless `next_update` says it.
            next_update, last_update: aware; when it ends, and when it was made.
        """
        now = datetime.now(UTC)
        end = next_update or now + timedelta(days=days)
        begin = last_update or min(now - signing.BACKDATE, end - signing.BACKDATE)
        return signing.sign_crl(
            self._certificate.subject, self._key, revoked_serials, begin, end
        )


def write_new(files: dict[Path, tuple[bytes, int]]) -> None:
    """Write files that must not exist, all or none, with these modes."""
    for path in files:
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"{path} exists and is not overwritten",
                hint="move it away, or choose another directory",
            )
    written: list[Path] = []
    try:
        for path, (data, mode) in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(path, flags, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
