"""CertManager and CertAuthManager."""

from __future__ import annotations

import ssl
import threading

import pytest

from fastnode import (
    CertAuthManager,
    CertificateError,
    CertManager,
    ClientAuth,
    ConfigError,
    SettingsFrozenError,
)
from helpers.pki import authority, certificate, expired_certificate, manager, pool

NAME = "a@127.0.0.1"


def test_guarantee_3_contexts() -> None:
    made = manager(NAME)
    for context in (made.server_context(), made.client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.hostname_checks_common_name is False
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_TICKET
        assert context.options & ssl.OP_NO_RENEGOTIATION
    assert made.client_context().check_hostname
    assert made.server_context().num_tickets == 0


def test_guarantee_3_tls_1_2_only_when_asked_for() -> None:
    made = manager(NAME, minimum_version=ssl.TLSVersion.TLSv1_2)
    names = [c["name"] for c in made.server_context().get_ciphers()]
    old = [n for n in names if not n.startswith("TLS_")]
    assert old
    assert all(n.startswith("ECDHE") and ("GCM" in n or "POLY" in n) for n in old)
    with pytest.raises(ConfigError, match="8996"):
        manager(NAME, minimum_version=ssl.TLSVersion.TLSv1_1)


def test_alone_it_asks_for_no_client_certificate() -> None:
    made = CertManager(certificate(NAME))
    assert made.server_context().verify_mode is ssl.CERT_NONE
    assert made.client_context().verify_mode is ssl.CERT_REQUIRED
    assert made.client_auth is ClientAuth.NO_CLIENT_CERT
    assert not made.verifies_clients
    with pytest.raises(ConfigError, match="Certificate"):
        CertManager(None)


VERIFYING = (
    ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN,
    ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (ClientAuth.NO_CLIENT_CERT, ssl.CERT_NONE),
        (ClientAuth.REQUEST_CLIENT_CERT, ssl.CERT_OPTIONAL),
        (ClientAuth.REQUIRE_ANY_CLIENT_CERT, ssl.CERT_REQUIRED),
        (ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN, ssl.CERT_OPTIONAL),
        (ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, ssl.CERT_REQUIRED),
    ],
)
def test_client_auth(mode: ClientAuth, expected: ssl.VerifyMode) -> None:
    made = manager(NAME, client_auth=mode)
    assert made.server_context().verify_mode is expected
    assert made.verifies_clients == (mode in VERIFYING)
    assert made.server_context(insecure_skip_verify=True).verify_mode is ssl.CERT_NONE


def test_settings_that_cannot_be() -> None:
    made = CertAuthManager(certificate(NAME))
    for setting, value in (
        ("client_cas", "ca.pem"),
        ("root_cas", 7),
        ("client_auth", "require"),
        ("server_name", ""),
    ):
        with pytest.raises(ConfigError, match=setting):
            setattr(made, setting, value)


def test_verifying_against_nothing() -> None:
    made = CertAuthManager(
        certificate(NAME), client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT
    )
    with pytest.raises(ConfigError, match="client_cas"):
        made.server_context()


def test_no_certificate_is_for_dialing_only() -> None:
    made = CertAuthManager(None, root_cas=pool())
    assert made.certificate is None
    assert made.client_context()
    with pytest.raises(ConfigError, match="no certificate"):
        made.server_context()


def test_guarantee_5_update_makes_a_new_generation() -> None:
    made = manager(NAME)
    old = made.server_context(), made.client_context()
    assert (made.server_context(), made.client_context()) == old
    new = authority().issue(None, dns=["x.example"]).certificate()
    made.update(new)
    assert made.certificate is new
    assert made.server_context() is not old[0]
    assert made.client_context() is not old[1]


def test_guarantee_5_a_bad_certificate_is_refused_whole() -> None:
    made = manager(NAME)
    before = made.certificate, made.server_context()
    with pytest.raises(CertificateError, match="expired"):
        made.update(expired_certificate(NAME))
    for wrong in (None, "cert.pem", b"PEM"):
        with pytest.raises(ConfigError):
            made.update(wrong)  # type: ignore[arg-type]
    assert (made.certificate, made.server_context()) == before


@pytest.mark.parametrize(
    "setting", ["client_cas", "client_auth", "root_cas", "server_name"]
)
def test_guarantee_5_trust_is_fixed_in_use(setting: str) -> None:
    made = manager(NAME)
    value = getattr(made, setting)
    setattr(made, setting, value)
    made.freeze()
    assert made.frozen
    with pytest.raises(SettingsFrozenError, match=setting) as caught:
        setattr(made, setting, value)
    assert "restart" in (caught.value.hint or "")
    made.update(certificate("b@127.0.0.1"))


def test_guarantee_6_a_context_is_never_changed() -> None:
    made = manager(NAME)
    context = made.server_context()
    made.server_name = "other.example"
    made.client_auth = ClientAuth.VERIFY_CLIENT_CERT_IF_GIVEN
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert made.server_context() is not context


def test_updates_from_many_threads() -> None:
    made = manager(NAME)
    certificates = [certificate(f"n{i}@127.0.0.1") for i in range(4)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(25):
                made.update(certificates[number])
                assert made.server_context().verify_mode is ssl.CERT_REQUIRED
                made.client_context()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert made.certificate in certificates
