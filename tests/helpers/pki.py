"""Real certificates, made for the tests of one run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth
from fastnode.testing import ThrowawayAuthority
from fastnode.testing import authority as new_authority


def authority(name: str = "test CA") -> ThrowawayAuthority:
    """The authority of that name; the same one for all tests."""
    return _authority(name)


@cache  # which tells authority() from authority("test CA")
def _authority(name: str) -> ThrowawayAuthority:
    return new_authority(name)


@cache
def certificate(name: str, ca: str = "test CA") -> Certificate:
    """A good certificate for a node; the same one for all tests."""
    return authority(ca).certificate(name)


def odd_certificate(name: str, ca: str = "test CA", **details: Any) -> Certificate:
    """A certificate that differs from a good one as `Authority.issue` allows."""
    return authority(ca).certificate(name, **details)


def expired_certificate(name: str) -> Certificate:
    """A certificate whose time was over a day ago."""
    now = datetime.now(UTC)
    return odd_certificate(
        name,
        not_before=now - timedelta(days=9),
        not_after=now - timedelta(days=1),
    )


def pool(ca: str = "test CA") -> CertPool:
    """A fresh pool: nodes fix those that they use."""
    return authority(ca).pool()


def manager(
    name: str,
    *,
    shows: Certificate | None = None,
    client_auth: ClientAuth = ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
    trusts: str = "test CA",
    anonymous: bool = False,
    **options: Any,
) -> CertAuthManager:
    """A manager for a node: by default mutual TLS under the test CA."""
    return authority(trusts).manager(
        None if anonymous else name,
        certificate=None if anonymous else shows or certificate(name),
        client_auth=client_auth,
        **options,
    )
