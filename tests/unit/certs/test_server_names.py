"""Which names a server's certificate covers (RFC 9525, 6.3 and 6.4), by handshakes."""

from __future__ import annotations

import ssl

import pytest

from fastnode import CertAuthManager
from helpers.handshake import handshake
from helpers.pki import authority, certificate, pool

NAME = "n@localhost"

CASES = [
    # DNS SANs, the name that is dialed, whether it is covered
    (["a.example"], "a.example", True),
    (["a.example"], "A.EXAMPLE", True),
    (["a.example"], "b.example", False),
    (["a.example"], "x.a.example", False),
    (["a.example"], "example", False),
    # A wildcard is the whole left-most label, and stands for one.
    (["*.a.example"], "x.a.example", True),
    (["*.a.example"], "X.a.example", True),
    (["*.a.example"], "x.y.a.example", False),
    (["*.a.example"], "a.example", False),
    (["x*.a.example"], "xy.a.example", False),
    (["*x.a.example"], "yx.a.example", False),
    (["x.*.example"], "x.a.example", False),
    (["*.*.example"], "x.a.example", False),
    # An address is no DNS name, and no wildcard covers one.
    (["10.0.0.5"], "10.0.0.5", True),  # issue() makes it an IP SAN
    (["10.0.0.5"], "10.0.0.6", False),
    (["::1"], "::1", True),
    (["*.0.0.5"], "10.0.0.5", False),
    (["a.example", "10.0.0.5"], "10.0.0.5", True),
]


def manager(*sans: str, common_name: str | None = None) -> CertAuthManager:
    dns = [san for san in sans if not san.replace(".", "").isdigit() and ":" not in san]
    ips = [san for san in sans if san not in dns]
    issued = authority().issue(dns=dns, ips=ips, common_name=common_name)
    return CertAuthManager(issued.certificate())


def covered(server: CertAuthManager, name: str, *, verify: bool = True) -> bool:
    client = CertAuthManager(
        certificate(NAME), root_cas=pool(), verify_server_name=verify
    )
    try:
        handshake(server.server_context(), client.client_context(), name)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in (62, 64):
            raise
        return False
    return True


@pytest.mark.parametrize(("sans", "name", "expected"), CASES)
def test_guarantee_3_names(sans: list[str], name: str, expected: bool) -> None:
    assert covered(manager(*sans), name) is expected


def test_guarantee_3_the_common_name_never_names_a_server() -> None:
    assert not covered(manager("other.example", common_name="a.example"), "a.example")


def test_the_name_alone_can_be_left_unverified() -> None:
    assert covered(manager("a.example"), "b.example", verify=False)
    stranger = CertAuthManager(certificate("n@a.example", "other CA"))
    client = CertAuthManager(None, root_cas=pool(), verify_server_name=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(stranger.server_context(), client.client_context(), "a.example")
