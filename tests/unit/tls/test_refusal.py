"""What people read when a handshake fails, on the side that refused and the other.

Each case is a real handshake in memory: OpenSSL's own errors and alerts.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from fastnode.certs.authority import Authority
from fastnode.certs.certificate import Certificate
from fastnode.certs.context import make_client_context, make_server_context
from fastnode.certs.pool import CertPool
from fastnode.errors import (
    CertificateExpired,
    CertificateRequired,
    FastnodeError,
    HandshakeError,
    HostnameMismatch,
    ProtocolError,
    Side,
    UnknownAuthority,
)
from fastnode.names import NodeName
from fastnode.openssl.verdict import Verdict
from fastnode.openssl.verification import expect_verdict, take_verdict
from fastnode.tls.evidence import Evidence
from fastnode.tls.refusal import local_refusal

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NAME = NodeName.parse("n@localhost")


class End:
    """One side of a handshake, and the error that it ended with."""

    def __init__(self, context: ssl.SSLContext, *, host: str | None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=host is None,
            server_hostname=host,
        )
        self.host = host
        self.shaken = False
        self.error: ssl.SSLError | None = None
        self.verdict: Verdict | None = None
        # What the owner of a link knows besides.
        self.shown: Certificate | None = None
        self.pool: CertPool | None = None

    def advance(self) -> None:
        if self.error is not None:
            return
        expect_verdict()
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            # TLS 1.3: the server's refusal of a client certificate arrives here.
            self.tls.read(1)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        finally:
            self.verdict = take_verdict() or self.verdict

    def refusal(self) -> FastnodeError:
        assert self.error is not None
        return local_refusal(
            self.error,
            Evidence(
                dialer=self.host is not None,
                peer="10.0.0.9:4000",
                server_name=self.host,
                shown=self.shown,
                pool=self.pool,
                verdict=self.verdict,
            ),
        )


def join(
    dialing: ssl.SSLContext, accepting: ssl.SSLContext, host: str = "localhost"
) -> tuple[End, End]:
    near, far = End(dialing, host=host), End(accepting, host=None)
    for _ in range(6):
        near.advance()
        far.incoming.write(near.outgoing.read())
        far.advance()
        near.incoming.write(far.outgoing.read())
    near.advance()
    return near, far


class World(NamedTuple):
    """An authority, and certificates good and bad."""

    authority: Authority
    good: Certificate
    bad: dict[str, Certificate]


@pytest.fixture(scope="module")
def world() -> World:
    authority = Authority.create("good CA")
    now = datetime.now(UTC)
    day = timedelta(days=1)
    below = authority.intermediate("middle").issue(NAME)
    bad = {
        "other authority": Authority.create("other CA").issue(NAME),
        "expired": authority.issue(NAME, not_before=now - 9 * day, not_after=now - day),
        "not yet valid": authority.issue(
            NAME, not_before=now + day, not_after=now + 9 * day
        ),
        "not for servers": authority.issue(NAME, server_auth=False),
        "not for clients": authority.issue(NAME, client_auth=False),
        "another host": authority.issue(dns=["other.example"]),
        "only a common name": authority.issue(
            NAME, host=False, common_name="localhost"
        ),
    }
    made = {name: issued.certificate() for name, issued in bad.items()}
    made["self-signed"] = Certificate.self_signed("stranger")
    end = b"-----END CERTIFICATE-----\n"
    leaf_only = below.cert_pem.partition(end)[0] + end
    made["missing intermediate"] = Certificate.from_pem(leaf_only, below.key_pem)
    return World(authority, authority.issue(NAME).certificate(), made)


def server(
    world: World, certificate: Certificate, version: ssl.TLSVersion = TLS13
) -> ssl.SSLContext:
    return make_server_context(
        certificate,
        verify_mode=ssl.CERT_REQUIRED,
        client_cas=world.authority.pool(),
        minimum_version=version,
    )


def client(
    world: World, certificate: Certificate | None, version: ssl.TLSVersion = TLS13
) -> ssl.SSLContext:
    context = make_client_context(
        certificate,
        root_cas=world.authority.pool(),
        minimum_version=version,
        insecure_skip_verify=False,
    )
    context.maximum_version = version
    return context


def check(
    end: End, expected: type[FastnodeError], side: Side, *words: str
) -> FastnodeError:
    found = end.refusal()
    assert type(found) is expected
    assert found.side is side
    assert found.peer == "10.0.0.9:4000"
    assert found.hint
    assert found.__cause__ is end.error
    for word in words:
        assert word in str(found)
    return found


both_versions = pytest.mark.parametrize("version", [TLS12, TLS13])


# --- the acceptor refuses the dialer's certificate -------------------------------


@both_versions
@pytest.mark.parametrize(
    ("which", "here", "there"),
    [
        ("other authority", UnknownAuthority, UnknownAuthority),
        ("self-signed", UnknownAuthority, UnknownAuthority),
        ("missing intermediate", UnknownAuthority, UnknownAuthority),
        ("expired", CertificateExpired, CertificateExpired),
        ("not yet valid", CertificateExpired, CertificateExpired),
        ("not for clients", HandshakeError, HandshakeError),
    ],
)
def test_client_certificate_is_refused(
    world: World,
    which: str,
    here: type[FastnodeError],
    there: type[FastnodeError],
    version: ssl.TLSVersion,
) -> None:
    near, far = join(
        client(world, world.bad[which], version), server(world, world.good, version)
    )
    check(far, here, Side.LOCAL, "the client's certificate")
    check(near, there, Side.REMOTE, "the peer refused")
    # A client of TLS 1.3 believes itself accepted until it reads.
    assert near.shaken is (version is TLS13)


def test_client_without_certificate_tls13(world: World) -> None:
    near, far = join(client(world, None), server(world, world.good))
    check(far, CertificateRequired, Side.LOCAL, "cert manager")
    check(near, CertificateRequired, Side.REMOTE, "cert manager")
    assert near.shaken


def test_client_without_certificate_tls12(world: World) -> None:
    near, far = join(client(world, None, TLS12), server(world, world.good, TLS12))
    check(far, CertificateRequired, Side.LOCAL)
    # TLS 1.2 has no alert of its own for it (RFC 5246, 7.4.6): it is inferred.
    check(near, CertificateRequired, Side.REMOTE, "shown none")


# --- the dialer refuses the acceptor's certificate --------------------------------


@both_versions
@pytest.mark.parametrize(
    ("which", "here", "there"),
    [
        ("other authority", UnknownAuthority, UnknownAuthority),
        ("self-signed", UnknownAuthority, UnknownAuthority),
        ("missing intermediate", UnknownAuthority, UnknownAuthority),
        ("expired", CertificateExpired, CertificateExpired),
        ("not yet valid", CertificateExpired, CertificateExpired),
        ("not for servers", HandshakeError, HandshakeError),
        ("another host", HostnameMismatch, HandshakeError),
        ("only a common name", HostnameMismatch, HandshakeError),
    ],
)
def test_server_certificate_is_refused(
    world: World,
    which: str,
    here: type[FastnodeError],
    there: type[FastnodeError],
    version: ssl.TLSVersion,
) -> None:
    near, far = join(
        client(world, world.good, version), server(world, world.bad[which], version)
    )
    check(near, here, Side.LOCAL, "the server's certificate")
    check(far, there, Side.REMOTE, "the peer refused")


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_hostname_mismatch_names_the_name(world: World, host: str) -> None:
    certificate = world.authority.issue(dns=["localhost"]).certificate()
    near, _ = join(client(world, world.good), server(world, certificate), host)
    check(near, HostnameMismatch, Side.LOCAL, repr(host), "server_name", "SAN")


def test_hints_name_the_pool_to_mend(world: World) -> None:
    stranger = world.bad["other authority"]
    near, far = join(client(world, stranger), server(world, world.good))
    assert "client_cas" in str(far.refusal())
    assert "client_cas" in str(near.refusal())
    near, far = join(client(world, world.good), server(world, stranger))
    assert "root_cas" in str(near.refusal())
    assert "root_cas" in str(far.refusal())


# --- versions and strangers --------------------------------------------------------


def test_client_of_tls12_only(world: World) -> None:
    near, far = join(client(world, world.good, TLS12), server(world, world.good))
    check(far, HandshakeError, Side.LOCAL, "minimum_version")
    check(near, HandshakeError, Side.REMOTE, "TLS 1.3 is the default")


def test_server_of_tls12_only(world: World) -> None:
    old = server(world, world.good, TLS12)
    old.maximum_version = TLS12
    near, far = join(client(world, world.good), old)
    check(far, HandshakeError, Side.LOCAL, "version")
    check(near, HandshakeError, Side.REMOTE, "version")


STRANGERS = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP request"),
    (b"POST / HTTP/1.1\r\n\r\n", "HTTP request"),
    (b"CONNECT a:443 HTTP/1.1\r\n\r\n", "HTTP proxy"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "not TLS"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not TLS"),
    (bytes(64), "not TLS"),
    (b"\x16\x03\x01\x00\x20" + bytes(range(32)), "out of turn"),
    (b"\x16\x03\x01\xff\xff" + bytes(99), "not TLS"),
]


@pytest.mark.parametrize("dialer", [False, True])
@pytest.mark.parametrize(("data", "words"), STRANGERS)
def test_stranger(world: World, data: bytes, words: str, dialer: bool) -> None:
    make: Callable[..., ssl.SSLContext] = client if dialer else server
    end = End(make(world, world.good), host="localhost" if dialer else None)
    end.advance()
    end.incoming.write(data)
    end.advance()
    check(end, ProtocolError, Side.REMOTE, words, "check host and port")


@pytest.mark.parametrize("kind", [0x16, 0x17, 0x99])
def test_broken_record_is_the_same_error_with_every_openssl(
    world: World, kind: int
) -> None:
    near = End(client(world, world.good), host="localhost")
    far = End(server(world, world.good), host=None)
    near.advance()
    far.incoming.write(near.outgoing.read())
    far.advance()
    far.incoming.write(bytes([kind, 3, 3, 0, 64]) + bytes(64))
    far.advance()
    check(far, ProtocolError, Side.REMOTE, "not TLS", "check host and port")


def test_connection_that_ends_early(world: World) -> None:
    end = End(client(world, world.good), host="localhost")
    end.advance()
    end.incoming.write_eof()
    end.advance()
    check(end, HandshakeError, Side.REMOTE, "closed the connection")


def alerted(world: World, code: int) -> End:
    """A dialer that was sent a fatal alert (RFC 8446, 6)."""
    end = End(client(world, world.good), host="localhost")
    end.advance()
    end.incoming.write(bytes([21, 3, 3, 0, 2, 2, code]))
    end.advance()
    return end


@pytest.mark.parametrize("code", range(256))
def test_every_alert_is_an_error_with_a_hint(world: World, code: int) -> None:
    found = alerted(world, code).refusal()
    assert isinstance(found, HandshakeError | ProtocolError)
    assert found.hint
    assert found.side is Side.REMOTE


@pytest.mark.parametrize(
    ("code", "words"),
    [
        # Python's table lacks it: the reason is None, the text says it.
        (120, "does not speak fastnode"),
        (112, "unrecognized name"),
        (115, "unknown psk identity"),
    ],
)
def test_alert_without_a_reason_of_its_own(world: World, code: int, words: str) -> None:
    check(alerted(world, code), HandshakeError, Side.REMOTE, words)


def test_close_notify_in_the_handshake(world: World) -> None:
    end = End(client(world, world.good), host="localhost")
    end.advance()
    end.incoming.write(bytes.fromhex("15030300020100"))
    end.advance()
    check(end, HandshakeError, Side.REMOTE, "closed the connection")


def test_wrong_usage_says_which_is_needed(world: World) -> None:
    near, far = join(
        client(world, world.bad["not for clients"]), server(world, world.good)
    )
    check(far, HandshakeError, Side.LOCAL, "client authentication")
    near, _ = join(
        client(world, world.good), server(world, world.bad["not for servers"])
    )
    check(near, HandshakeError, Side.LOCAL, "server authentication")
