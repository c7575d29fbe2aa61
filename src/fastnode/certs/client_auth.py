"""How an acceptor treats client certificates."""

from __future__ import annotations

from enum import Enum

__all__ = ["ClientAuth"]


class ClientAuth(Enum):
    """The five modes of Go's ``crypto/tls``, with the same meaning."""

    #: No certificate is asked for.
    NO_CLIENT_CERT = "no client cert"
    #: Asked for, not required, not verified.
    REQUEST_CLIENT_CERT = "request client cert"
    #: Required, not verified.
    REQUIRE_ANY_CLIENT_CERT = "require any client cert"
    #: Asked for; one that is given must verify.
    VERIFY_CLIENT_CERT_IF_GIVEN = "verify client cert if given"
    #: Required, and must verify.
    REQUIRE_AND_VERIFY_CLIENT_CERT = "require and verify client cert"

    @property
    def verifies(self) -> bool:
        """Whether a certificate that is presented is verified."""
        return self in (
            ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN,
            ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        )

    @property
    def asks(self) -> bool:
        """Whether clients are asked for a certificate."""
        return self is not ClientAuth.NO_CLIENT_CERT

    @property
    def requires(self) -> bool:
        """Whether a client without a certificate is refused."""
        return self in (
            ClientAuth.REQUIRE_ANY_CLIENT_CERT,
            ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        )
