"""A chain that is judged again has the verdict that its handshake has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth
from fastnode.names import NodeName
from fastnode.openssl.again import judge_again
from fastnode.openssl.handle import why_unreachable, wrap
from fastnode.openssl.verdict import Verdict
from helpers.constraints import constrained
from helpers.flawed import FLAWS, flawed
from helpers.hints import handshake
from helpers.pki import authority, certificate, expired_certificate, odd_certificate

pytestmark = pytest.mark.skipif(
    why_unreachable() is not None, reason="needs an OpenSSL that can be reached"
)

HOST = "10.0.0.5"
NAME = NodeName.parse(f"n@{HOST}")
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
#: What a peer shows, and what verifies it.
Made = tuple[Certificate, CertPool]


def revoked(serial_of: Callable[[], tuple[Certificate, int]], **dates: Any) -> Made:
    shown, serial = serial_of()
    pool = authority().pool()
    pool.add_crl(authority().crl([serial], **dates))
    return shown, pool


def leaf() -> tuple[Certificate, int]:
    shown = odd_certificate(str(NAME))
    return shown, shown.serial_number


def intermediate() -> tuple[Certificate, int]:
    below = authority().intermediate("below")
    return below.issue(NAME).certificate(), below.x509.serial_number


def shown(certificate: Certificate, ca: str = "test CA") -> Made:
    return certificate, authority(ca).pool()


def beyond_constraints() -> Made:
    below = constrained("permitted;IP:192.0.2.0/255.255.255.0", parent=authority())
    return below.issue(NAME).certificate(), authority().pool()


def within_constraints() -> Made:
    below = constrained("permitted;IP:10.0.0.0/255.0.0.0", parent=authority())
    return below.issue(NAME).certificate(), authority().pool()


def partial_chain() -> Made:
    below = authority().intermediate("below")
    pool = CertPool.from_pem(below.cert_pem, partial_chains=True)
    return below.issue(NAME).certificate(), pool


def flawed_authority(flaw: str) -> Made:
    made = flawed("F", **FLAWS[flaw][0])
    return made.issue(NAME).certificate(), made.pool()


CASES: dict[str, Callable[[], Made]] = {
    "good": lambda: shown(certificate(str(NAME))),
    "good, with intermediate": lambda: (intermediate()[0], authority().pool()),
    "expired": lambda: shown(expired_certificate(str(NAME))),
    "not yet valid": lambda: shown(
        odd_certificate(str(NAME), not_before=NOW + DAY, not_after=NOW + 9 * DAY)
    ),
    "other CA": lambda: shown(certificate(str(NAME)), "other CA"),
    "self-signed": lambda: shown(Certificate.self_signed("me", [HOST])),
    "not for servers": lambda: shown(odd_certificate(str(NAME), server_auth=False)),
    "not for clients": lambda: shown(odd_certificate(str(NAME), client_auth=False)),
    "for another host": lambda: shown(
        odd_certificate(str(NAME), host=False, dns=["a.example"])
    ),
    "revoked": lambda: revoked(leaf),
    "a revoked intermediate": lambda: revoked(intermediate),
    "not in the list": lambda: revoked(lambda: (leaf()[0], 4711)),
    "a list that has ended": lambda: revoked(
        leaf, last_update=NOW - 9 * DAY, next_update=NOW - DAY
    ),
    "beyond constraints": beyond_constraints,
    "within constraints": within_constraints,
    "a partial chain": partial_chain,
    **{f"an authority: {flaw}": partial(flawed_authority, flaw) for flaw in FLAWS},
}


def manager(shows: Certificate, trusts: CertPool) -> CertAuthManager:
    made = CertAuthManager(
        shows,
        client_cas=trusts,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=trusts,
    )
    made.keep_chains()
    return made


def again(judge: CertAuthManager, verdict: Verdict, *, dialer: bool) -> Verdict:
    context = judge.client_context() if dialer else judge.server_context()
    handle = wrap(context, server_side=not dialer, server_name=HOST if dialer else None)
    assert handle is not None
    (first,) = judge_again([(handle, verdict.presented)])
    # A handle serves again, and nothing of one verdict is in the next.
    assert judge_again([(handle, verdict.presented)] * 2) == [first, first]
    return first


@pytest.mark.parametrize("dialer", [True, False])
@pytest.mark.parametrize("what", CASES)
def test_the_verdict_is_that_of_the_handshake(what: str, dialer: bool) -> None:
    peer, trusted = CASES[what]()
    everybody = CertPool.from_pem(
        authority().cert_pem + authority("other CA").cert_pem, partial_chains=True
    )
    everybody.add(b"".join(pem_of(each) for each in peer.chain))
    judge = manager(certificate(str(NAME)), trusted)
    other = CertAuthManager(
        peer,
        client_auth=ClientAuth.NO_CLIENT_CERT,
        root_cas=everybody,
    )
    if dialer:
        errors, (verdict, _other) = handshake(judge, other)
    else:
        errors, (_other, verdict) = handshake(other, judge)
    assert verdict is not None
    found = again(judge, verdict, dialer=dialer)
    assert found._replace(authorities=()) == verdict._replace(authorities=())
    assert (found.code == 0) == (errors[0 if dialer else 1] is None)


def pem_of(each: x509.Certificate) -> bytes:
    return each.public_bytes(Encoding.PEM)


def test_what_cannot_be_read_is_an_error() -> None:
    judge = manager(certificate(str(NAME)), authority().pool())
    handle = wrap(judge.server_context(), server_side=True)
    assert handle is not None
    for chain in ((), (b"",), (b"garbage",)):
        with pytest.raises(ValueError, match="certificate"):
            judge_again([(handle, chain)])
    assert judge_again([]) == []


def test_nothing_is_left_of_many_verdicts() -> None:
    """References are counted right: OpenSSL would crash, or memory grow."""
    peer = intermediate()[0]
    judge = manager(certificate(str(NAME)), authority().pool())
    chain = tuple(der_of(each) for each in peer.chain)
    handle = wrap(judge.server_context(), server_side=True)
    assert handle is not None
    for _ in range(50):
        verdicts = judge_again([(handle, chain), (handle, chain[:1])] * 2)
        assert [verdict.code for verdict in verdicts] == [0, 20, 0, 20]


def der_of(each: x509.Certificate) -> bytes:
    return each.public_bytes(Encoding.DER)
