"""SPIFFE: identities that are URIs, and a ready-made rule of who may have a link.

Sources: the SPIFFE-ID and the X509-SVID standards (github.com/spiffe/spiffe,
standards/SPIFFE-ID.md and X509-SVID.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from fastnode.certs.sans import read_sans
from fastnode.errors import ConfigError
from fastnode.names import NodeName

if TYPE_CHECKING:
    from fastnode.peer import Peer

__all__ = ["SpiffeId", "SpiffeRule"]

SCHEME: Final = "spiffe"
#: SPIFFE-ID, 2.3 and 2.1: bytes that every implementation takes, and of a trust domain.
MAX_BYTES: Final = 2048
MAX_DOMAIN_BYTES: Final = 255

_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z")
#: Beside the SPIFFE ID a certificate may carry the URI that covers its node name.
_NODE_URI: Final = "fastnode://"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """``spiffe://trust-domain/path``.

    Attributes:
        trust_domain: lower case, without scheme.
        path: begins with a slash, or is empty: then it names the trust domain itself.

    Raises:
        ConfigError: one of them is not as SPIFFE-ID, 2, demands.
    """

    trust_domain: str
    path: str = ""

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if not isinstance(self.path, str):
            raise ConfigError(
                f"the path of a SPIFFE ID is a str, not {type(self.path).__name__}"
            )
        if self.path:
            self._check_path()
        if len(str(self)) > MAX_BYTES:
            raise ConfigError(f"a SPIFFE ID has at most {MAX_BYTES} bytes")

    def _check_path(self) -> None:
        first, *segments = self.path.split("/")
        if first:
            raise self._wrong("its path does not begin with a slash")
        if segments[-1] == "":
            raise self._wrong("it ends with a slash")
        for segment in segments:
            if segment in {"", ".", ".."}:
                raise self._wrong(f"its path has the segment {segment!r}")
            if not _SEGMENT.match(segment):
                raise self._wrong(
                    f"its path has the segment {segment!r}: letters, digits, '.', '_' "
                    "and '-' are allowed"
                )

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"{str(self)[:MAX_BYTES]!r} is no SPIFFE ID: {why}")

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse ``spiffe://trust-domain/path``.

        Nothing is normalized: what is not in its one canonical form is none. So there
        is no user, port, query, fragment or percent-encoding.

        Raises:
            ConfigError: not of that form, or longer than 2048 bytes.
        """
        if not isinstance(text, str):
            raise ConfigError(f"a SPIFFE ID is a str, not {type(text).__name__}")
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise ConfigError(f"a SPIFFE ID has at most {MAX_BYTES} bytes")
        scheme, separator, rest = text.partition("://")
        if scheme != SCHEME or not separator:
            raise ConfigError(
                f"{text!r} is no SPIFFE ID: it does not begin with spiffe://",
                hint="write it as spiffe://trust-domain/path",
            )
        domain, slash, path = rest.partition("/")
        return cls(domain, slash + path)

    def __str__(self) -> str:
        return f"{SCHEME}://{self.trust_domain}{self.path}"


@dataclass(frozen=True, slots=True)
class SpiffeRule:
    r"""An `authorize` hook: who has a SPIFFE ID of this kind may have a link.

    ::

        NetworkOptions(authorize=SpiffeRule("prod.example", r"/ns/[a-z]+/sa/{name}"))

    A peer is authorized if its certificate was verified and is an X.509-SVID: it has
    exactly one ``spiffe`` URI with a path among its SANs, no other URI but
    ``fastnode://`` ones, and is not that of an authority (X509-SVID, 2, 3.1 and 5.2).
    Its trust domain has to be `trust_domain`, and the whole path has to match `path`.

    Attributes:
        trust_domain: without scheme, as ``prod.example``.
        path: a regular expression for the whole path, which begins with a slash;
            ``{name}`` and ``{host}`` stand for the two parts of the peer's node name.
            None: any path.

    Raises:
        ConfigError: one of them cannot be.
    """

    trust_domain: str
    path: str | None = None

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if self.path is None:
            return
        if not isinstance(self.path, str):
            raise ConfigError(
                f"SpiffeRule.path is a str, not {type(self.path).__name__}"
            )
        try:
            re.compile(_filled(self.path, NodeName("name", "host")))
        except re.error as error:
            raise ConfigError(
                f"SpiffeRule.path {self.path!r} is no regular expression: {error}",
                hint="escape what is to be taken as it stands, with a backslash",
            ) from None

    def __call__(self, peer: Peer) -> bool:
        """Whether the peer may have a link."""
        if not peer.verified or peer.certificate is None:
            return False
        found = svid_of(peer.certificate)
        if found is None or found.trust_domain != self.trust_domain:
            return False
        if self.path is None:
            return True
        try:
            pattern = _filled(self.path, NodeName.parse(peer.name))
            return re.fullmatch(pattern, found.path) is not None
        except (re.error, ConfigError):
            # A pattern may be one for most names only: "[{name}]".
            return False


def check_trust_domain(domain: object) -> None:
    """Raise `ConfigError` unless it is a trust domain (SPIFFE-ID, 2.1)."""
    if not isinstance(domain, str) or not _DOMAIN.match(domain):
        raise ConfigError(
            f"{domain!r} is no trust domain",
            hint="lower-case letters, digits, '.', '_' and '-', without spiffe:// and "
            "without a port",
        )
    if len(domain) > MAX_DOMAIN_BYTES:
        raise ConfigError(f"a trust domain has at most {MAX_DOMAIN_BYTES} bytes")


def svid_of(certificate: x509.Certificate) -> SpiffeId | None:
    """The SPIFFE ID of a certificate that is an X.509-SVID of a workload, or None."""
    sans = read_sans(certificate)
    if sans is None:
        return None
    uris = sans.get_values_for_type(x509.UniformResourceIdentifier)
    others = [uri for uri in uris if not uri.startswith(_NODE_URI)]
    if len(others) != 1 or _is_authority(certificate):
        return None
    try:
        found = SpiffeId.parse(others[0])
    except ConfigError:
        return None
    return found if found.path else None


def _is_authority(certificate: x509.Certificate) -> bool:
    """By its basic constraints or its key usage, where it has them."""
    for extension in certificate.extensions:
        said = extension.value
        if isinstance(said, x509.BasicConstraints) and said.ca:
            return True
        if isinstance(said, x509.KeyUsage) and (said.key_cert_sign or said.crl_sign):
            return True
    return False


def _filled(pattern: str, name: NodeName) -> str:
    parts = {"{name}": re.escape(name.name), "{host}": re.escape(name.host)}
    return re.sub(r"\{name\}|\{host\}", lambda found: parts[found[0]], pattern)
