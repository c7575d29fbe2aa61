"""Revocation lists: what gets into a pool, and that OpenSSL takes what was made."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import Certificate, CertificateLoadError, SettingsFrozenError
from fastnode.certs.authority import Authority
from fastnode.names import NodeName
from helpers.handshake import handshake
from helpers.pki import authority, manager, pool

NAME = NodeName.parse("a@127.0.0.1")
DAY = timedelta(days=1)


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)


def serials(crl: x509.CertificateRevocationList) -> list[int]:
    return [revoked.serial_number for revoked in list(crl)]


def test_pem_der_text_and_several_in_one(tmp_path: Path) -> None:
    one, two = authority().crl([1, 2]), authority("Other CA").crl([3])
    for data in (one + b"text between\n" + two, (one + two).decode()):
        held = pool()
        assert not held.crls
        assert held.crl_pem == ""
        held.add_crl(data)
        assert list(map(serials, held.crls)) == [[1, 2], [3]]
        assert held.crl_pem.encode() == one + two
    (tmp_path / "one.pem").write_bytes(one)
    (tmp_path / "two.der").write_bytes(der(two))
    held = pool()
    held.load_crl(tmp_path / "one.pem", str(tmp_path / "two.der"))
    assert held.crl_pem.encode() == one + two
    assert len(held) == 1


def test_what_cannot_be_read_is_said_and_adds_nothing(tmp_path: Path) -> None:
    good = authority().crl()
    held = pool()
    generation = held.generation
    for number, data in enumerate(
        (
            b"",
            b"garbage",
            der(good)[:-3],
            good[:-20],
            good + good[:-20],
            good.replace(b"M", b"!", 2),
            authority().cert_pem,
            delta(),
        )
    ):
        file = tmp_path / f"list{number}.crl"
        file.write_bytes(data)
        with pytest.raises(CertificateLoadError, match=file.name) as caught:
            held.load_crl(file)
        assert "X509 CRL" in str(caught.value) or "complete list" in str(caught.value)
        with pytest.raises(CertificateLoadError):
            held.add_crl(data)
        (tmp_path / "good.crl").write_bytes(good)
        with pytest.raises(CertificateLoadError):
            held.load_crl(tmp_path / "good.crl", file)
    with pytest.raises(CertificateLoadError, match="nowhere"):
        held.load_crl(tmp_path / "nowhere.crl")
    with pytest.raises(CertificateLoadError, match="no file"):
        held.load_crl()
    assert held.crls == ()
    assert held.generation == generation


def delta() -> bytes:
    now = datetime.now(UTC)
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority().x509.subject)
        .last_update(now - DAY)
        .next_update(now + DAY)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
        .sign(authority()._key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def test_a_list_that_its_issuer_has_not_signed() -> None:
    impostor = Authority.create("test CA")
    held = pool()
    with pytest.raises(CertificateLoadError, match="CN=test CA") as caught:
        held.add_crl(impostor.crl())
    assert "not signed" in caught.value.message
    assert held.crls == ()
    # Two authorities of one name: a key that was replaced. Each may have its list.
    held.add(impostor.cert_pem)
    held.add_crl(impostor.crl([1]) + authority().crl([2]))
    assert len(held.crls) == 2


def test_an_issuer_that_is_not_in_the_pool_is_left_to_the_handshake() -> None:
    held = pool()
    held.add_crl(authority().intermediate("mid").crl([5]))
    assert len(held.crls) == 1


def test_the_newer_one_stays() -> None:
    now = datetime.now(UTC)
    old = authority().crl([1], last_update=now - 3 * DAY)
    new = authority().crl([1, 2], last_update=now - 2 * DAY)
    same_second = authority().crl([1, 2, 3], last_update=now - 2 * DAY)
    for order in ([old, new], [new, old]):
        held = pool()
        for data in order:
            held.add_crl(data)
        assert [len(crl) for crl in held.crls] == [2]
    held.add_crl(same_second)
    assert [len(crl) for crl in held.crls] == [3]
    held.add_crl(new)
    assert [len(crl) for crl in held.crls] == [3]


def test_an_expired_one_is_taken_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = datetime.now(UTC)
    held = pool()
    with caplog.at_level(logging.WARNING):
        held.add_crl(authority().crl())
        assert caplog.messages == []
        held.add_crl(authority("Other CA").crl(next_update=now - 3 * DAY))
        assert "CN=Other CA expired on" in caplog.messages[-1]
        assert "3 days ago" in caplog.messages[-1]
        later = authority("Third CA").crl(last_update=now + DAY)
        held.add_crl(later)
        assert "not valid before" in caplog.messages[-1]
    assert len(held.crls) == 3


def test_guarantee_5_a_pool_in_use_takes_no_lists(tmp_path: Path) -> None:
    held = pool()
    held.freeze()
    (tmp_path / "x.crl").write_bytes(authority().crl())
    with pytest.raises(SettingsFrozenError, match="restart"):
        held.add_crl(authority().crl())
    with pytest.raises(SettingsFrozenError, match="restart"):
        held.load_crl(tmp_path / "x.crl")
    assert held.crls == ()


def test_contexts_notice_what_is_added() -> None:
    made = manager(str(NAME))
    for held, context in (
        (made.client_cas, made.server_context),
        (made.root_cas, made.client_context),
    ):
        assert held is not None
        before = context()
        assert context() is before
        generation = held.generation
        held.add_crl(authority().crl())
        assert held.generation > generation
        after = context()
        assert after is not before
        held.add(authority("Other CA").cert_pem)
        assert context() is not after


@pytest.mark.parametrize("revoked", [True, False])
def test_openssl_judges_by_a_list_that_the_authority_made(revoked: bool) -> None:
    shown: Certificate = authority().issue(NAME).certificate()
    held = pool()
    held.add_crl(authority().crl([shown.serial_number + (not revoked)]))
    server = manager(str(NAME), shows=shown).server_context()
    client = manager(str(NAME)).client_context()
    client.load_verify_locations(cadata=held.pem)
    client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    load_crls(client, held.crl_pem)
    if revoked:
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            handshake(server, client)
    else:
        handshake(server, client)


def load_crls(context: ssl.SSLContext, pem: str) -> None:
    """Python takes lists from files only."""
    import tempfile

    with tempfile.NamedTemporaryFile("w") as file:
        file.write(pem)
        file.flush()
        context.load_verify_locations(cafile=file.name)
