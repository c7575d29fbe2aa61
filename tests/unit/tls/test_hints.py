"""Hints answer as a colleague would: with the names, dates and settings at hand."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth
from fastnode.certs.authority import Authority
from fastnode.certs.expiry import day_and_distance
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers.hints import hints
from helpers.pki import certificate, manager, odd_certificate

NAME = "n@10.0.0.5"
DAY = timedelta(days=1)

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason="says less without the hook"
)


def test_a_client_certificate_of_another_authority() -> None:
    there, here = hints(
        manager(NAME, shows=certificate(NAME, "Old CA")),
        manager(NAME, trusts="test CA"),
    )
    assert (
        "the client certificate is signed by CN=Old CA, which is not in this "
        "acceptor's client_cas (CN=test CA)" in here
    )
    # The acceptor names its authorities in the handshake, so the dialer knows too.
    assert "signed by CN=Old CA, which is not in the acceptor's client_cas" in there
    assert "(CN=test CA)" in there


def test_a_server_certificate_of_another_authority() -> None:
    here, there = hints(manager(NAME), manager(NAME, shows=certificate(NAME, "Old CA")))
    assert (
        "the server certificate is signed by CN=Old CA, which is not in this "
        "dialer's root_cas (CN=test CA)" in here
    )
    assert "CN=Old CA" in there
    assert "the dialer's root_cas" in there


def expired(days: int) -> Certificate:
    now = datetime.now(UTC)
    return odd_certificate(NAME, not_before=now - 99 * DAY, not_after=now - days * DAY)


def test_expired() -> None:
    shown = expired(3)
    there, here = hints(manager(NAME, shows=shown), manager(NAME))
    said = f"expired on {shown.not_valid_after:%Y-%m-%d}, 3 days ago"
    assert said in here
    assert said in there


def test_not_yet_valid() -> None:
    now = datetime.now(UTC)
    shown = odd_certificate(NAME, not_before=now + 3.5 * DAY, not_after=now + 9 * DAY)
    there, here = hints(manager(NAME, shows=shown), manager(NAME))
    said = f"valid from {shown.not_valid_before:%Y-%m-%d}, in 3 days: check both clocks"
    assert said in here
    assert said in there


def test_another_name() -> None:
    shown = odd_certificate(NAME, host=False, uri=False, dns=["a.example"])
    here, there = hints(manager(NAME), manager(NAME, shows=shown))
    assert (
        "the certificate is valid for a.example, you connected to 10.0.0.5: set "
        "server_name or a SAN" in here
    )
    assert "a.example" in there


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_no_certificate(version: str) -> None:
    dialing = manager(NAME, anonymous=True, minimum_version=ssl.TLSVersion.TLSv1_2)
    accepting = manager(NAME, minimum_version=ssl.TLSVersion.TLSv1_2)
    accepting.server_context().maximum_version = ssl.TLSVersion[version]
    there, here = hints(dialing, accepting)
    assert "signed by CN=test CA" in here
    assert "give this node's cert manager a certificate" in there


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (timedelta(days=-3, hours=-5), "3 days ago"),
        (timedelta(days=-1, hours=-5), "1 day ago"),
        (timedelta(seconds=-1), "1 second ago"),
        (timedelta(), "0 seconds ago"),
        (timedelta(minutes=2, seconds=3), "in 2 minutes"),
        (timedelta(days=400), "in 400 days"),
    ],
)
def test_distances(distance: timedelta, words: str) -> None:
    now = datetime(2026, 1, 5, 12, tzinfo=UTC)
    moment = now + distance
    assert day_and_distance(moment, now) == f"{moment:%Y-%m-%d}, {words}"


def test_an_authority_of_the_same_name_with_another_key() -> None:
    twin = Authority.create("test CA")
    shown = twin.issue(NodeName.parse(NAME)).certificate()
    there, here = hints(manager(NAME, shows=shown), manager(NAME))
    assert "the same name, but another key" in here
    # The pool of the other side cannot be seen: it may hold an intermediate.
    assert "has the same name, so it has another key, or it is an inter" in there


def test_an_authority_of_the_same_name_with_the_same_key() -> None:
    """The chain is refused for another reason, so no other key is spoken of."""
    root = Authority.create("root")
    middle = root.intermediate("middle")
    pool = CertPool.from_pem(middle.cert_pem)
    shown = middle.issue(NodeName.parse(NAME)).certificate()
    trusting = CertAuthManager(
        certificate(NAME),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
    )
    _, here = hints(manager(NAME, shows=shown), trusting)
    assert "another key" not in here


def test_an_expired_root_is_the_trusting_side_s_to_replace() -> None:
    old = Authority.create("old CA", days=-0.002)
    shown = old.issue(NodeName.parse(NAME), days=90).certificate()
    pool = CertPool.from_pem(old.cert_pem)
    trusting = CertAuthManager(
        certificate(NAME),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
    )
    there, here = hints(manager(NAME, shows=shown), trusting)
    assert "it is in this acceptor's client_cas: put its successor there" in here
    assert "the peer must" not in here
    assert "the authorities in the acceptor's client_cas" in there
