"""Contexts where the interpreter's OpenSSL cannot be reached: less is said, and what
cannot be done says so, but nothing is looser."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest

from fastnode import CertAuthManager, ClientAuth, ConfigError
from fastnode.certs import context
from fastnode.errors import CertificateExpired, UnknownAuthority
from fastnode.openssl.verification import take_verdict
from fastnode.tls.evidence import Evidence
from fastnode.tls.refusal import local_refusal
from helpers.pki import certificate, expired_certificate, manager

NAME = "n@localhost"


@pytest.fixture(autouse=True)
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")


def shake(
    dialing: ssl.SSLContext, accepting: ssl.SSLContext
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = dialing.wrap_bio(to_client, to_server, server_hostname="localhost")
    far = accepting.wrap_bio(to_server, to_client, server_side=True)
    for end in (near, far, near, far):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return near, far


@pytest.mark.parametrize("mode", ClientAuth, ids=lambda mode: mode.name)
def test_modes(mode: ClientAuth) -> None:
    if mode.asks and not mode.verifies:
        with pytest.raises(ConfigError, match="it is hidden") as caught:
            CertAuthManager(None, client_auth=mode)
        assert mode.name in str(caught.value)
        assert "choose a mode that verifies" in (caught.value.hint or "")
    else:
        made = manager(NAME, client_auth=mode)
        shake(made.client_context(), made.server_context())


def test_a_bad_certificate_is_refused_and_explained_with_what_is_known() -> None:
    accepting = manager(NAME).server_context()
    for shown, expected in (
        (certificate(NAME, "other CA"), UnknownAuthority),
        (expired_certificate(NAME), CertificateExpired),
    ):
        dialing = manager(NAME, shows=shown).client_context()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            shake(dialing, accepting)
        assert take_verdict() is None
        evidence = Evidence(dialer=False, pool=manager(NAME).client_cas)
        error = local_refusal(caught.value, evidence)
        assert type(error) is expected
        assert error.hint


def test_guarantee_6_no_resumption_in_tls12() -> None:
    made = manager(NAME, minimum_version=ssl.TLSVersion.TLSv1_2)
    assert made.server_context() is not made.server_context()
    assert manager(NAME).server_context() is not None
