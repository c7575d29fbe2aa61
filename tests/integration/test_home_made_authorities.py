"""Authorities that verify nobody: told at load time, and told right afterwards."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import CertAuthManager, Certificate, CertPool, ClientAuth, Refusal
from fastnode.certs.authority import Authority
from fastnode.errors import ConfigError
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers.flawed import FLAWS, flawed
from helpers.hints import outcome, refuse
from helpers.nodes import A, B, pair, until
from helpers.pki import authority, certificate

NAME = "n@10.0.0.5"
PARSED = NodeName.parse(NAME)
hooked = pytest.mark.skipif(why_unavailable() is not None, reason="needs the hook")


def manager(shown: Certificate, pool: CertPool) -> CertAuthManager:
    return CertAuthManager(
        shown,
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name == "fastnode.certs"
    ]


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_will_be_refused_is_said_at_load(
    flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    details, words = FLAWS[flaw]
    made = flawed("home CA", **details)
    pool = CertPool.from_pem(made.cert_pem)
    (said,) = warnings(caplog)
    assert "no peer can be verified by CN=home CA" in said
    assert words in said
    assert "make its certificate anew" in said
    # And it is refused indeed, by whoever sees the certificate first.
    shown = made.issue(PARSED).certificate()
    here, _there = refuse(manager(shown, pool), manager(shown, pool))
    assert here.side is not None
    assert here.side.value == "local"


@pytest.mark.parametrize("partial_chains", [False, True])
def test_a_good_pool_says_nothing(
    partial_chains: bool, caplog: pytest.LogCaptureFixture
) -> None:
    below = authority().intermediate("below")
    data = authority().cert_pem + below.cert_pem + flawed("good").cert_pem
    # One that is trusted for itself is not one of an authority.
    data += certificate_pem(Certificate.self_signed("me"))
    pool = CertPool.from_pem(data, partial_chains=partial_chains)
    pool.freeze()
    assert not warnings(caplog)


def certificate_pem(shown: Certificate) -> bytes:
    return shown.x509.public_bytes(Encoding.PEM)


def test_many_of_one_kind_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = [flawed(f"CA {at}", usage=None).cert_pem for at in range(5)]
    CertPool.from_pem(b"".join(made))
    (said,) = warnings(caplog)
    assert "CN=CA 0 (and 4 more like it)" in said


@hooked
@pytest.mark.parametrize("flaw", ["easy-rsa of Debian 12", "openssl req -x509"])
async def test_both_hints_name_the_defect(flaw: str) -> None:
    details, words = FLAWS[flaw]
    made = flawed("home CA", **details)
    # The dialer trusts the acceptor, so that the acceptor is the one that refuses.
    dialing = manager(
        made.issue(NodeName.parse(A)).certificate(),
        CertPool.from_pem(authority().cert_pem + made.cert_pem),
    )
    accepting = manager(certificate(B), CertPool.from_pem(made.cert_pem))
    refusals: list[Refusal] = []
    async with pair(
        {"manager": dialing, "listens": False},
        {"manager": accepting, "on_refused": refusals.append},
    ) as (a, _):
        with pytest.raises(ConnectionError) as caught:
            await a.connect(B)
        await until(lambda: refusals)
    assert words in str(caught.value)
    assert words in (refusals[0].hint or "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_remedy_of_the_docs_makes_a_good_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The command stands in docs/tls.md, and keeps what was issued before."""
    page = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
    command = page.split("<!-- remedy -->")[1].split("```sh\n")[1].split("```")[0]
    old = flawed("my CA", usage=None)
    shown = old.issue(PARSED).certificate()
    old.save(tmp_path)
    subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=30,
    )
    pool = CertPool.load(tmp_path / "ca-new.pem")
    assert not warnings(caplog)
    assert outcome(manager(shown, pool), manager(shown, pool)) == (None, None)


# --- an intermediate as the only trust anchor ---------------------------------------


def leaf_alone(below: Authority, name: str) -> Certificate:
    issued = below.issue(NodeName.parse(name))
    end = b"-----END CERTIFICATE-----\n"
    return Certificate.from_pem(issued.cert_pem.partition(end)[0] + end, issued.key_pem)


@hooked
@pytest.mark.parametrize("with_issuer", [False, True])
def test_an_intermediate_without_its_root_is_named_so(
    with_issuer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    below = authority().intermediate("below")
    made = below.issue(PARSED).certificate() if with_issuer else leaf_alone(below, NAME)
    pool = CertPool.from_pem(below.cert_pem)
    pool.freeze()
    (said,) = warnings(caplog)
    assert "CN=below without CN=test CA" in said
    assert "partial_chains=True" in said
    trusted = CertPool.from_pem(authority().cert_pem)
    there, here = refuse(manager(made, trusted), manager(certificate(NAME), pool))
    assert "client_cas holds CN=below, which is an intermediate authority" in str(here)
    assert "without CN=test CA" in str(here)
    assert "partial_chains=True" in str(here)
    assert "another key" not in str(here)
    assert "an intermediate authority" in str(there)
    assert "partial_chains=True" in str(there)
    there, here = refuse(manager(certificate(NAME), pool), manager(made, trusted))
    assert "root_cas holds CN=below, which is an intermediate" in str(there)


@pytest.mark.parametrize("with_issuer", [False, True])
async def test_partial_chains_trust_an_intermediate_by_itself(
    with_issuer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    below, beside = authority().intermediate("below"), authority().intermediate("other")

    def shows(name: str, issuer: Authority) -> Certificate:
        if with_issuer:
            return issuer.issue(NodeName.parse(name)).certificate()
        return leaf_alone(issuer, name)

    def trusts() -> CertPool:
        return CertPool.from_pem(below.cert_pem, partial_chains=True)

    async with pair(
        {"manager": manager(shows(A, below), trusts()), "listens": False},
        {"manager": manager(shows(B, below), trusts())},
    ) as (a, b):
        link = await a.connect(B)
        assert link.peer.verified
        await until(lambda: b.links)
        assert b.links[0].peer.verified
    assert not warnings(caplog)
    # What the root issued otherwise is not trusted.
    both = CertPool.from_pem(authority().cert_pem)
    here, there = refuse(
        manager(shows(NAME, below), trusts()), manager(shows(NAME, beside), both)
    )
    assert type(here).__name__ == type(there).__name__ == "UnknownAuthority"


def test_partial_chains_is_a_flag_and_an_attribute(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority().cert_pem)
    assert CertPool.load(tmp_path / "ca.pem", partial_chains=True).partial_chains
    assert not CertPool.load(tmp_path / "ca.pem").partial_chains
    assert CertPool(partial_chains=True).partial_chains
    with pytest.raises(ConfigError, match="partial_chains"):
        CertPool.from_pem(authority().cert_pem, partial_chains="yes")  # type: ignore[arg-type]
