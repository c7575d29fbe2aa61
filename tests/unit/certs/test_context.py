"""The contexts that fastnode makes, judged by handshakes between two of them."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.authority import Authority
from fastnode.certs.certificate import Certificate
from fastnode.certs.client_auth import ClientAuth
from fastnode.certs.context import (
    ALPN_PROTOCOL,
    make_client_context,
    make_server_context,
)
from fastnode.certs.manager import CertAuthManager
from fastnode.certs.pool import CertPool
from fastnode.errors import CertificateLoadError, ConfigError
from fastnode.names import NodeName

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NAME = NodeName.parse("n@localhost")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue(NAME).certificate()


def server(
    certificate: Certificate,
    pool: CertPool | None,
    *,
    version: ssl.TLSVersion = TLS13,
    mode: ssl.VerifyMode = ssl.CERT_REQUIRED,
) -> ssl.SSLContext:
    return make_server_context(
        certificate, verify_mode=mode, client_cas=pool, minimum_version=version
    )


def client(
    certificate: Certificate | None,
    pool: CertPool | None,
    *,
    version: ssl.TLSVersion = TLS13,
    insecure: bool = False,
) -> ssl.SSLContext:
    return make_client_context(
        certificate,
        root_cas=pool,
        minimum_version=version,
        insecure_skip_verify=insecure,
    )


def join(
    dialing: ssl.SSLContext,
    accepting: ssl.SSLContext,
    *,
    host: str = "localhost",
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Two ends after a handshake in memory; the first refusal is raised."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = dialing.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    far = accepting.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (near, far):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    for end in (near, far):  # whatever follows the handshake, tickets say
        with suppress(ssl.SSLWantReadError):
            end.read(1)
    return near, far


# --- DESIGN 4.3: TLS 1.3, ALPN, SANs only, strict chains -------------------------


def test_tls13_and_alpn_by_default(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    near, far = join(client(certificate, pool), server(certificate, pool))
    for end in (near, far):
        assert end.version() == "TLSv1.3"
        assert end.selected_alpn_protocol() == ALPN_PROTOCOL == "fastnode/1"
        assert end.compression() is None
        assert end.getpeercert(binary_form=True)


def test_tls12_is_refused_unless_asked_for(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    old = client(certificate, pool, version=TLS12)
    old.maximum_version = TLS12
    with pytest.raises(ssl.SSLError) as caught:
        join(old, server(certificate, pool))
    assert caught.value.reason == "UNSUPPORTED_PROTOCOL"
    near, _ = join(old, server(certificate, pool, version=TLS12))
    assert near.version() == "TLSv1.2"


def test_tls12_has_forward_secrecy_and_aead_only(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    for context in (
        client(certificate, pool, version=TLS12),
        server(certificate, pool, version=TLS12),
    ):
        ciphers = [c for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"]
        assert ciphers
        assert all(str(c["name"]).startswith("ECDHE-") for c in ciphers)
        assert all(c["aead"] for c in ciphers)


def test_settings_of_every_context(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    dialing, accepting = client(certificate, pool), server(certificate, pool)
    for context in (dialing, accepting):
        assert context.minimum_version is TLS13
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert not context.hostname_checks_common_name
        for option in (ssl.OP_NO_TICKET, ssl.OP_NO_COMPRESSION):
            assert context.options & option
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.get_ca_certs(binary_form=True)
        assert context.keylog_filename is None
    assert accepting.num_tickets == 0
    assert dialing.check_hostname


def test_every_context_is_new(authority: Authority, certificate: Certificate) -> None:
    pool = authority.pool()
    assert client(certificate, pool) is not client(certificate, pool)
    assert server(certificate, pool) is not server(certificate, pool)


def refusal(
    dialing: ssl.SSLContext, accepting: ssl.SSLContext, host: str = "localhost"
) -> int:
    """OpenSSL's verdict, X509_V_ERR_*."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        join(dialing, accepting, host=host)
    return caught.value.verify_code


def test_server_name_is_checked_against_sans(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    dialing = client(certificate, pool)
    assert refusal(dialing, server(certificate, pool), "other.example") == 62
    assert refusal(dialing, server(certificate, pool), "127.0.0.1") == 64


def test_common_name_never_counts(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    # Python and OpenSSL fall back to the Common Name where there is no DNS SAN.
    named = authority.issue(NAME, host=False, common_name="localhost").certificate()
    assert refusal(client(certificate, pool), server(named, pool)) == 62


def test_ip_san_is_checked(authority: Authority, certificate: Certificate) -> None:
    pool = authority.pool()
    by_address = authority.issue(ips=["127.0.0.1"]).certificate()
    join(client(certificate, pool), server(by_address, pool), host="127.0.0.1")
    dialing = client(certificate, pool)
    assert refusal(dialing, server(by_address, pool), "127.0.0.2") == 64


def test_chain_is_checked_strictly(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    bare = without_key_identifiers()
    # RFC 5280, 4.2.1.2: an authority must carry a subject key identifier. Without
    # VERIFY_X509_STRICT, OpenSSL does not mind.
    accepting = server(bare.issue(NAME).certificate(), pool, mode=ssl.CERT_NONE)
    dialing = client(certificate, bare.pool())
    assert refusal(dialing, accepting) != 0
    dialing.verify_flags &= ~ssl.VERIFY_X509_STRICT
    join(dialing, accepting)


def without_key_identifiers() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bare CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_self_signed_passes_where_the_pool_holds_it(version: ssl.TLSVersion) -> None:
    own = Certificate.self_signed("Example")
    pool = CertPool.from_pem(own.x509.public_bytes(Encoding.PEM))
    dialing = client(own, pool, version=version)
    dialing.maximum_version = version
    near, far = join(dialing, server(own, pool, version=version))
    assert near.version() == far.version()


def test_intermediate_is_sent_along(authority: Authority) -> None:
    below = authority.intermediate("middle").issue(NAME).certificate()
    pool = authority.pool()
    near, far = join(client(below, pool), server(below, pool))
    for end in (near, far):
        assert end.getpeercert(binary_form=True) == below.x509.public_bytes(
            Encoding.DER
        )


# --- who is asked, who is verified -----------------------------------------------


def test_nobody_is_asked_with_cert_none(
    authority: Authority, certificate: Certificate
) -> None:
    accepting = server(certificate, None, mode=ssl.CERT_NONE)
    _, far = join(client(certificate, authority.pool()), accepting)
    assert far.getpeercert(binary_form=True) is None


def test_optional_accepts_none_and_refuses_bad(
    authority: Authority, certificate: Certificate
) -> None:
    pool = authority.pool()
    accepting = server(certificate, pool, mode=ssl.CERT_OPTIONAL)
    _, far = join(client(None, pool), accepting)
    assert far.getpeercert(binary_form=True) is None
    stranger = Authority.create("stranger").issue(NAME).certificate()
    assert refusal(client(stranger, pool), accepting) == 20


def test_required_refuses_none(authority: Authority, certificate: Certificate) -> None:
    pool = authority.pool()
    with pytest.raises(ssl.SSLError) as caught:
        join(client(None, pool), server(certificate, pool))
    assert caught.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_insecure_skip_verify_verifies_nothing(certificate: Certificate) -> None:
    dialing = client(certificate, None, insecure=True)
    assert dialing.verify_mode is ssl.CERT_NONE
    assert not dialing.check_hostname
    accepting = server(certificate, None, mode=ssl.CERT_NONE)
    near, _ = join(dialing, accepting, host="anything.example")
    assert near.getpeercert(binary_form=True)


def test_no_pool_means_the_systems_authorities(certificate: Certificate) -> None:
    accepting = server(certificate, None, mode=ssl.CERT_NONE)
    for pool in (None, CertPool.system()):
        assert refusal(client(certificate, pool), accepting) == 20


# --- DESIGN 4.6: no tickets, no resumption ---------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_no_tickets(
    authority: Authority, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    pool = authority.pool()
    dialing = client(certificate, pool, version=version)
    dialing.maximum_version = version
    # A stranger's client asks for a ticket, whatever ours does.
    dialing.options &= ~ssl.OP_NO_TICKET
    near, _ = join(dialing, server(certificate, pool, version=version))
    session = near.session
    assert session is not None
    assert not session.has_ticket


def test_no_resumption_in_tls13(authority: Authority, certificate: Certificate) -> None:
    pool = authority.pool()
    dialing, accepting = client(certificate, pool), server(certificate, pool)
    near, _ = join(dialing, accepting)
    near, far = join(dialing, accepting, session=near.session)
    assert not near.session_reused
    assert not far.session_reused


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_session_is_dead_on_a_new_context(
    authority: Authority, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    pool = authority.pool()
    dialing = client(certificate, pool, version=version)
    dialing.maximum_version = version
    near, _ = join(dialing, server(certificate, pool, version=version))
    _, far = join(
        dialing, server(certificate, pool, version=version), session=near.session
    )
    assert not far.session_reused


# --- DESIGN 4.7: the key comes from memory ---------------------------------------


def test_key_from_pipes_works_in_a_handshake(
    authority: Authority, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    pool = authority.pool()
    join(client(certificate, pool), server(certificate, pool))


def test_no_resumption_in_tls12(authority: Authority, certificate: Certificate) -> None:
    # OpenSSL's own cache of sessions would resume without tickets.
    pool = authority.pool()
    manager = CertAuthManager(
        certificate,
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        minimum_version=TLS12,
    )
    dialing = client(certificate, pool, version=TLS12)
    dialing.maximum_version = TLS12
    near, _ = join(dialing, manager.server_context())
    session = near.session
    assert session is not None
    near, far = join(dialing, manager.server_context(), session=session)
    assert near.version() == "TLSv1.2"
    assert not near.session_reused
    assert not far.session_reused


def test_pool_that_grew_before_use_is_seen(certificate: Certificate) -> None:
    pool = Authority.create("first").pool()
    manager = CertAuthManager(certificate, root_cas=pool)
    assert len(manager.client_context().get_ca_certs()) == 1
    pool.add(Authority.create("second").cert_pem)
    assert len(manager.client_context().get_ca_certs()) == 2


def test_empty_pool_is_refused(certificate: Certificate) -> None:
    manager = CertAuthManager(certificate, root_cas=CertPool())
    with pytest.raises(ConfigError, match="trusts nobody"):
        manager.client_context()


def test_pipe_that_takes_less_is_said(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.delattr(os, "memfd_create", raising=False)

    def short(descriptor: int, data: bytes) -> int:
        if len(data) <= 100:
            raise BlockingIOError
        return real(descriptor, data[:100])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(CertificateLoadError, match="a pipe of this system took"):
            certificate.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
