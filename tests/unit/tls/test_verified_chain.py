"""What engines know of name constraints in the verified chain."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs import context
from fastnode.certs.authority import Authority
from fastnode.openssl import constrained as chains
from fastnode.openssl.verification import why_unavailable
from fastnode.tls.choice import why_not_direct
from fastnode.tls.engine import TlsEngine
from fastnode.tls.plaintext import PlaintextEngine
from helpers.constraints import constrained
from helpers.engines import HOST, contexts, direct, memory_bio, shake
from helpers.pki import authority

MAKERS = {"memory-bio": memory_bio} | (
    {"direct": direct} if why_not_direct() is None else {}
)


def der(issuer: Authority) -> bytes:
    return issuer.x509.public_bytes(Encoding.DER)


def shaken(kind: str, issuer: Authority) -> tuple[TlsEngine, TlsEngine]:
    """A dialer that shows a certificate of this issuer, and an acceptor."""
    dialing, accepting = contexts(issuer.issue(None, dns=["x.internal"]).certificate())
    make = MAKERS[kind]
    near, far = make(dialing, HOST), make(accepting, None)
    shake(near, far, judged=False)
    assert far.certificate is not None
    return near, far


@pytest.fixture(params=["hooked", "hidden"])
def hooked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "hidden":
        monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")
    elif why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    return bool(request.param == "hooked")


@pytest.mark.parametrize("kind", MAKERS)
def test_only_certificates_with_constraints_are_told(kind: str, hooked: bool) -> None:
    near, far = shaken(kind, authority())
    assert near.constrained_by == far.constrained_by == ()
    _, far = shaken(kind, authority().intermediate("plain"))
    assert far.constrained_by == ()
    upper = constrained("permitted;DNS:internal", parent=authority(), name="upper")
    _, far = shaken(kind, upper)
    assert far.constrained_by == (der(upper),)
    lower = constrained("excluded;DNS:y.internal", parent=upper, name="lower")
    near, far = shaken(kind, lower)
    assert far.constrained_by == (der(lower), der(upper))
    assert near.constrained_by == ()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_name_that_tls_verified(kind: str, hooked: bool) -> None:
    near, far = shaken(kind, authority())
    assert near.server_name == HOST
    assert far.server_name is None


def test_plaintext_has_no_constraints() -> None:
    assert PlaintextEngine().constrained_by == ()
    assert PlaintextEngine().server_name is None


@pytest.mark.parametrize("kind", MAKERS)
def test_guarantee_9_connections_share_what_is_kept(kind: str) -> None:
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    issuer = constrained("permitted;DNS:internal", parent=authority())
    found = [shaken(kind, issuer)[1].constrained_by for _ in range(3)]
    assert found[0] is not None
    for each in found:
        assert each is not None
        assert each[0] is found[0][0]


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_is_kept_once_the_peer_was_judged(kind: str) -> None:
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    _, far = shaken(kind, constrained("permitted;DNS:internal", parent=authority()))
    far.judged()
    assert far.verdict is None
    # What is not known any more is not taken for "no constraints".
    assert far.constrained_by is None


@pytest.mark.parametrize("kind", MAKERS)
def test_an_interpreter_that_does_not_tell_the_chain(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "why_unavailable", lambda: "it is hidden")
    near, far = shaken(kind, authority())
    for engine in (near, far):
        assert engine.constrained_by == ()

    class Mute:
        """An object of `ssl` without the method."""

    assert chains.constrained_by(Mute(), None) is None  # type: ignore[arg-type]
