"""The hook in the SSL_CTX behind a Python context: proven, or not used at all."""

from __future__ import annotations

import gc
import ssl
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import CertAuthManager, ClientAuth, ConfigError
from fastnode.certs.authority import Authority
from fastnode.certs.certificate import Certificate
from fastnode.names import NodeName
from fastnode.openssl.verification import (
    HookedContext,
    expect_verdict,
    take_verdict,
    why_unavailable,
)

NAME = NodeName.parse("n@localhost")

reachable = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"OpenSSL: {why_unavailable()}"
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("hook CA")


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue(NAME).certificate()


def server(
    authority: Authority, certificate: Certificate, *, accept_any: bool
) -> ssl.SSLContext:
    hooked = HookedContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_into(hooked.context)
    hooked.context.verify_mode = ssl.CERT_REQUIRED
    hooked.context.load_verify_locations(cadata=authority.cert_pem.decode())
    hooked.install(accept_any=accept_any)
    hooked.name_authorities([authority.x509.public_bytes(Encoding.DER)])
    return hooked.context


def client(authority: Authority, certificate: Certificate) -> ssl.SSLContext:
    hooked = HookedContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate.load_into(hooked.context)
    hooked.context.load_verify_locations(cadata=authority.cert_pem.decode())
    hooked.install()
    hooked.no_auto_chain()
    return hooked.context


def shake(dialing: ssl.SSLContext, accepting: ssl.SSLContext) -> ssl.SSLObject:
    """The server's end after a handshake in memory; its refusal is raised."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = dialing.wrap_bio(to_client, to_server, server_hostname="localhost")
    far = accepting.wrap_bio(to_server, to_client, server_side=True)
    for end in (near, far, near, far):
        expect_verdict()
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
        if end is near:
            near_verdict = take_verdict()
            if near_verdict is not None:
                assert near_verdict.code == 0
    return far


@reachable
def test_a_context_is_what_python_makes() -> None:
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        hooked, plain = HookedContext(protocol).context, ssl.SSLContext(protocol)
        assert hooked.options == plain.options
        assert hooked.verify_mode == plain.verify_mode
        assert hooked.verify_flags == plain.verify_flags
        assert hooked.check_hostname == plain.check_hostname


@reachable
def test_the_verdict_names_what_was_presented_and_is_told_once(
    authority: Authority, certificate: Certificate
) -> None:
    stranger = Authority.create("other CA").issue(NAME).certificate()
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(
            client(authority, stranger),
            server(authority, certificate, accept_any=False),
        )
    verdict = take_verdict()
    assert verdict is not None
    assert verdict.code == caught.value.verify_code == 20
    assert verdict.text == caught.value.verify_message
    assert verdict.depth == 0
    assert verdict.presented == (stranger.x509.public_bytes(Encoding.DER),)
    assert verdict.culprit == verdict.presented[0]
    assert take_verdict() is None


@reachable
def test_a_certificate_that_verifies(
    authority: Authority, certificate: Certificate
) -> None:
    shake(
        client(authority, certificate), server(authority, certificate, accept_any=False)
    )
    verdict = take_verdict()
    assert verdict is not None
    assert verdict.code == 0
    assert verdict.culprit is None


@reachable
def test_any_certificate_is_accepted_but_its_key_must_be_there(
    authority: Authority, certificate: Certificate
) -> None:
    stranger = Certificate.self_signed("stranger")
    accepting = server(authority, certificate, accept_any=True)
    far = shake(client(authority, stranger), accepting)
    assert far.getpeercert(binary_form=True) == stranger.x509.public_bytes(Encoding.DER)
    take_verdict()


@reachable
def test_a_dialer_hears_whom_the_server_trusts(
    authority: Authority, certificate: Certificate
) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client(authority, certificate).wrap_bio(
        to_client, to_server, server_hostname="localhost"
    )
    far = server(authority, certificate, accept_any=False).wrap_bio(
        to_server, to_client, server_side=True
    )
    expect_verdict()
    for end in (near, far, near):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    verdict = take_verdict()
    assert verdict is not None
    (named,) = verdict.authorities
    assert named.text == "CN=hook CA"
    assert named.der == authority.x509.subject.public_bytes()


@reachable
def test_threads_have_verdicts_of_their_own(
    authority: Authority, certificate: Certificate
) -> None:
    stranger = Certificate.self_signed("stranger")
    codes: dict[str, int] = {}
    both = threading.Barrier(2)

    def run(name: str, shown: Certificate) -> None:
        with suppress(ssl.SSLCertVerificationError):
            shake(
                client(authority, shown),
                server(authority, certificate, accept_any=False),
            )
        both.wait(10)
        verdict = take_verdict()
        assert verdict is not None
        codes[name] = verdict.code

    threads = [
        threading.Thread(target=run, args=("good", certificate)),
        threading.Thread(target=run, args=("bad", stranger)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert codes == {"good": 0, "bad": 18}


UNREACHABLE = {
    "LibreSSL": "ssl.OPENSSL_VERSION = 'LibreSSL 3.8.2'",
    "linked into the interpreter": "del sys.modules['_ssl'].__file__",
    "cannot be opened again": "sys.modules['_ssl'].__file__ = '/nowhere/_ssl.so'",
    # One of our own: it is a shared library on every system.
    "is not to be seen in it": "from fastnode.openssl import bio; "
    "sys.modules['_ssl'].__file__ = bio.__file__",
    "another version": "ssl.OPENSSL_VERSION_NUMBER += 1",
}


@reachable
@pytest.mark.parametrize("why", UNREACHABLE)
def test_what_cannot_be_proven_is_not_used(why: str) -> None:
    program = f"""
import ssl, sys
{UNREACHABLE[why]}
from fastnode.openssl.verification import HookedContext, why_unavailable
from fastnode import CertAuthManager, Certificate, ClientAuth, ConfigError
assert {why!r} in (why_unavailable() or ""), why_unavailable()
for make in (
    lambda: HookedContext(ssl.PROTOCOL_TLS_SERVER),
    lambda: CertAuthManager(None, client_auth=ClientAuth.REQUEST_CLIENT_CERT),
    lambda: CertAuthManager(None, client_auth=ClientAuth.REQUIRE_ANY_CLIENT_CERT),
):
    try:
        make()
    except ConfigError as error:
        assert {why!r} in str(error), error
    else:
        raise SystemExit("no ConfigError")
one = CertAuthManager(Certificate.self_signed("x"))
one.server_context()
from fastnode.tls.choice import make_engine, why_not_direct
assert {why!r} in (why_not_direct() or ""), why_not_direct()
engine = make_engine(one.client_context(), server_side=False, server_name="x")
assert type(engine).__name__ == "MemoryBioEngine"
engine.receive(b"")
assert engine.sent()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_all_modes_are_there_or_say_why() -> None:
    reason = why_unavailable()
    for mode in ClientAuth:
        if reason is None or mode.verifies or not mode.asks:
            CertAuthManager(None, client_auth=mode)
        else:
            with pytest.raises(ConfigError, match=mode.name) as caught:
                CertAuthManager(None, client_auth=mode)
            assert reason in str(caught.value)


@reachable
def test_nothing_is_kept_that_nobody_asked_for(
    authority: Authority, certificate: Certificate
) -> None:
    take_verdict()
    near = client(authority, certificate)
    far = server(authority, certificate, accept_any=False)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        near.wrap_bio(to_client, to_server, server_hostname="localhost"),
        far.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in (*ends, *ends):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert take_verdict() is None


@reachable
def test_finalizers_that_make_contexts_do_not_confuse_it() -> None:
    class Nuisance:
        """Makes a context when the collector finds it."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            HookedContext(ssl.PROTOCOL_TLS_CLIENT)

    before = gc.get_threshold()
    gc.set_threshold(7, 2, 2)
    try:
        for _ in range(300):
            Nuisance()
            hooked = HookedContext(ssl.PROTOCOL_TLS_SERVER)
            hooked.install()
    finally:
        gc.set_threshold(*before)
