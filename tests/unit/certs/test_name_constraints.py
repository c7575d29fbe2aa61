"""Which hosts name constraints forbid; compared with OpenSSL where OpenSSL compares."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnode.certs.name_constraints import (
    Violation,
    has_constraints,
    violation_of,
    violation_of_sans,
)
from fastnode.names import NodeName
from helpers.constraints import (
    constrained,
    encoded,
    extension,
    openssl_reads_hosts,
    refused,
    subtree,
    with_extension,
)
from helpers.odd_certificates import tlv
from helpers.pki import authority


def forbids(constraints: list[str], host: str, *, by_uri: bool = False) -> str | None:
    """The text of the constraint that forbids a host, or None."""
    found = violation_of([encoded(*constraints)], host, by_uri=by_uri)
    return None if found is None else found.constraint


A = "permitted;DNS:team-a.internal"
NOT_B = "excluded;DNS:team-b.internal"


@pytest.mark.parametrize(
    ("constraints", "host", "expected"),
    [
        # Zero or more labels may be added on the left.
        ([A], "team-a.internal", None),
        ([A], "pay.team-a.internal", None),
        ([A], "x.pay.team-a.internal", None),
        ([A], "PAY.Team-A.Internal", None),
        ([A], "pay.team-a.internal.", None),
        ([A], "pay.team-b.internal", A),
        ([A], "nteam-a.internal", A),
        ([A], "internal", A),
        ([NOT_B], "team-b.internal", NOT_B),
        ([NOT_B], "pay.team-b.internal", NOT_B),
        ([NOT_B], "Pay.TEAM-B.internal.", NOT_B),
        ([NOT_B], "nteam-b.internal", None),
        ([NOT_B], "internal", None),
        (["excluded;DNS:Team-B.Internal."], "team-b.internal", NOT_B),
        # A leading dot demands a label.
        (["permitted;DNS:.a.internal"], "x.a.internal", None),
        (["permitted;DNS:.a.internal"], "y.x.a.internal", None),
        (["permitted;DNS:.a.internal"], "a.internal", "permitted;DNS:.a.internal"),
        (["excluded;DNS:.b.internal"], "b.internal", None),
        (["excluded;DNS:.b.internal"], "x.b.internal", "excluded;DNS:.b.internal"),
        # Permitted and excluded together; several permitted ones.
        ([A, "excluded;DNS:x.team-a.internal"], "y.team-a.internal", None),
        (
            [A, "excluded;DNS:x.team-a.internal"],
            "z.x.team-a.internal",
            "excluded;DNS:x.team-a.internal",
        ),
        ([A, "permitted;DNS:other"], "other", None),
        ([A, "permitted;DNS:other"], "third", f"permitted;DNS:other, {A}"),
        # An empty DNS constraint matches every host.
        (["permitted;DNS:"], "anything", None),
        (["excluded;DNS:"], "anything", "excluded;DNS:"),
        # Constraints of one type say nothing of names of another type.
        ([A], "10.0.0.1", None),
        ([A], "::1", None),
        (["permitted;IP:10.0.0.0/8"], "pay.internal", None),
        (["excluded;IP:0.0.0.0/0", "excluded;IP:::/0"], "pay.internal", None),
        (["permitted;email:a@b.c"], "pay.internal", None),
        (["permitted;URI:.team-a.internal"], "pay.team-b.internal", None),
        # Addresses.
        (["permitted;IP:10.0.0.0/8"], "10.255.0.1", None),
        (["permitted;IP:10.0.0.0/8"], "11.0.0.1", "permitted;IP:10.0.0.0/8"),
        (["permitted;IP:10.0.0.0/8"], "::1", "permitted;IP:10.0.0.0/8"),
        (["permitted;IP:fd00::/8"], "fd12::1", None),
        (["permitted;IP:fd00::/8"], "fe80::1", "permitted;IP:fd00::/8"),
        (["permitted;IP:fd00::/8"], "10.0.0.1", "permitted;IP:fd00::/8"),
        (["excluded;IP:10.1.0.0/16"], "10.2.0.1", None),
        (["excluded;IP:10.1.0.0/16"], "10.1.2.3", "excluded;IP:10.1.0.0/16"),
        (["excluded;IP:fe80::/10"], "fe80::1%eth0", "excluded;IP:fe80::/10"),
        (["excluded;IP:10.0.0.0/8"], "::ffff:10.0.0.5", "excluded;IP:10.0.0.0/8"),
        (["excluded;IP:0a0000050a0000ff"], "10.9.9.5",
         "excluded;IP:10.0.0.5/10.0.0.255"),
        (["excluded;IP:0a0000050a0000ff"], "10.9.9.6", None),
        (["permitted;IP:0.0.0.0/0"], "192.0.2.1", None),
        (["excluded;IP:::/0"], "::1", "excluded;IP:::/0"),
    ],
)  # fmt: skip
def test_guarantee_4_hosts(
    constraints: list[str], host: str, expected: str | None
) -> None:
    assert forbids(constraints, host) == expected
    # The host of a URI obeys the same constraints, besides those for URIs.
    if not any(";URI:" in each for each in constraints):
        assert forbids(constraints, host, by_uri=True) == expected


@pytest.mark.parametrize(
    ("constraints", "host", "expected"),
    [
        (["permitted;URI:pay.internal"], "pay.internal", None),
        (["permitted;URI:Pay.Internal"], "pay.internal", None),
        (["permitted;URI:pay.internal"], "x.pay.internal",
         "permitted;URI:pay.internal"),
        (["permitted;URI:.internal"], "pay.internal", None),
        (["permitted;URI:.internal"], "x.pay.internal", None),
        (["permitted;URI:.internal"], "internal", "permitted;URI:.internal"),
        (["excluded;URI:pay.internal"], "pay.internal", "excluded;URI:pay.internal"),
        (["excluded;URI:pay.internal"], "PAY.internal.", "excluded;URI:pay.internal"),
        (["excluded;URI:pay.internal"], "x.pay.internal", None),
        (["excluded;URI:.internal"], "x.pay.internal", "excluded;URI:.internal"),
        (["permitted;URI:"], "pay.internal", "permitted;URI:"),
        (["excluded;URI:"], "pay.internal", "excluded;URI:"),
        ([A, "permitted;URI:.team-b.internal"], "pay.team-b.internal", A),
        ([A, "permitted;URI:.team-b.internal"], "pay.team-a.internal",
         "permitted;URI:.team-b.internal"),
        # RFC 5280: under a URI constraint a URI names no address.
        (["permitted;URI:.internal"], "10.0.0.1",
         "permitted;URI:.internal, under which a URI names no address"),
        (["excluded;URI:pay.internal"], "::1",
         "excluded;URI:pay.internal, under which a URI names no address"),
    ],
)  # fmt: skip
def test_guarantee_4_hosts_of_uris(
    constraints: list[str], host: str, expected: str | None
) -> None:
    assert forbids(constraints, host, by_uri=True) == expected


def test_guarantee_4_all_authorities_apply() -> None:
    first, second = encoded(A), encoded("excluded;DNS:x.team-a.internal")
    for chain in ([first, second], [second, first]):
        assert violation_of(chain, "y.team-a.internal", by_uri=False) is None
        assert violation_of(chain, "x.team-a.internal", by_uri=False) == Violation(
            "x.team-a.internal", "excluded;DNS:x.team-a.internal", second
        )
        found = violation_of(chain, "other", by_uri=False)
        assert found == Violation("other", A, first)


def test_certificates_without_constraints_allow_everything() -> None:
    plain = authority().x509.public_bytes(Encoding.DER)
    assert not has_constraints(plain)
    assert violation_of([], "pay.internal", by_uri=True) is None
    assert violation_of([plain], "pay.internal", by_uri=True) is None
    empty = with_extension(tlv(0x30, b"")).x509.public_bytes(Encoding.DER)
    assert has_constraints(empty)
    assert violation_of([empty], "pay.internal", by_uri=True) is None


def raw(value: bytes) -> list[bytes]:
    return [with_extension(value).x509.public_bytes(Encoding.DER)]


@pytest.mark.parametrize(
    ("text", "forbidden", "allowed"),
    [
        ("excluded;DNS:*.b.internal", "pay.internal", "10.0.0.1"),
        ("excluded;DNS:..", "pay.internal", "10.0.0.1"),
        ("excluded;DNS:b_\xff", "pay.internal", "10.0.0.1"),
        ("permitted;DNS:pay internal", "pay.internal", "10.0.0.1"),
        ("excluded;IP:0a000000", "10.0.0.1", "pay.internal"),
        ("permitted;IP:", "::1", "pay.internal"),
    ],
)
def test_malformed_constraints_forbid_names_of_their_type(
    text: str, forbidden: str, allowed: str
) -> None:
    found = forbids([text], forbidden)
    assert found is not None
    assert "malformed" in found
    assert found.isprintable()
    assert forbids([text], allowed) is None


def test_a_malformed_uri_constraint_forbids_uris_alone() -> None:
    text = "permitted;URI:spiffe://prod.example"
    assert forbids([text], "pay.internal") is None
    for host in ("pay.internal", "10.0.0.1"):
        assert "malformed" in (forbids([text], host, by_uri=True) or "")


@pytest.mark.parametrize(
    ("behind", "good"),
    [
        (tlv(0x80, b"\0"), True),
        (tlv(0x80, b"\1"), False),
        (tlv(0x81, b"\3"), False),
        (tlv(0x80, b"\0") + tlv(0x81, b"\3"), False),
    ],
)
def test_distances_other_than_those_of_rfc_5280(behind: bytes, good: bool) -> None:
    chain = raw(extension(subtree(A, behind)))
    found = violation_of(chain, "pay.team-a.internal", by_uri=False)
    assert (found is None) is good
    if found is not None:
        assert "minimum or maximum" in found.constraint
    assert violation_of(chain, "10.0.0.1", by_uri=False) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30",
        b"\x31\x00",
        b"\x30\x80\x00\x00",
        tlv(0x30, tlv(0xA2, b"")),
        tlv(0x30, tlv(0xA1, tlv(0x31, b""))),
        tlv(0x30, tlv(0xA1, tlv(0x30, b""))),
        tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0x02, b"a")))),
        tlv(0x30, tlv(0xA1, b"\x30\x05\x82\x04ab")),
        extension(A) + b"\0\0",
    ],
    ids=lambda value: value.hex() or "empty",
)
def test_unreadable_constraints_forbid_every_host(value: bytes) -> None:
    for host in ("pay.internal", "10.0.0.1", "::1"):
        for by_uri in (False, True):
            found = violation_of(raw(value), host, by_uri=by_uri)
            assert found is not None
            assert "cannot be read" in found.constraint


@given(st.binary(max_size=60))
def test_any_bytes_are_constraints_or_forbid_everything(value: bytes) -> None:
    chain = raw(value)
    found = violation_of(chain, "pay.internal", by_uri=True)
    assert found is None or found.constraint.isprintable()


@given(st.binary(max_size=40), st.integers(min_value=0))
def test_certificates_that_are_cut_forbid_everything(noise: bytes, at: int) -> None:
    whole = encoded(NOT_B)
    cut = whole[: at % len(whole)]
    cut += noise
    if has_constraints(cut) and cut != whole:
        found = violation_of([cut], "pay.team-b.internal", by_uri=False)
        assert found is not None


def test_an_error_lists_a_few_of_thousands() -> None:
    many = [f"permitted;DNS:n{number}.internal" for number in range(5_000)]
    found = forbids(many, "pay.internal")
    assert found is not None
    assert found.endswith("and 4996 more")
    assert len(found) < 400
    assert forbids(many, "n4999.internal") is None


def test_thousands_of_constraints_cost_no_comparison_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host is looked up by its labels: once for each, and not for each constraint."""
    from fastnode.certs import name_constraints

    many = [f"excluded;DNS:n{number}.internal" for number in range(3_000)]
    many += [f"excluded;DNS:.n{number}.internal" for number in range(3_000)]
    many += [
        f"excluded;IP:10.{number // 256}.{number % 256}.0/24" for number in range(3_000)
    ]
    der = encoded(*many)
    assert forbids(many, "pay.internal") is None
    looked_up = 0
    with_parents = name_constraints._with_parents

    def counted(host: str) -> list[str]:
        nonlocal looked_up
        found = list(with_parents(host))
        looked_up += len(found)
        return found

    monkeypatch.setattr(name_constraints, "_with_parents", counted)
    assert violation_of([der], "a.b.c.pay.internal", by_uri=True) is None
    assert looked_up < 20
    constraints = name_constraints._constraints_of(der)
    assert constraints is not None
    assert len(constraints.excluded.ip.by_mask) == 1


# --- the same as OpenSSL, where OpenSSL compares --------------------------------------


labels = st.sampled_from(["a", "b", "ab", "A"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
networks = st.sampled_from(
    ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "fd00::/8", "::/0"]
)
addresses = st.sampled_from(["10.0.0.1", "10.1.2.3", "11.0.0.1", "fd00::1", "::1"])
bases = st.one_of(
    hosts.map("DNS:{}".format),
    hosts.map("DNS:.{}".format),
    st.just("DNS:"),
    hosts.map("URI:{}".format),
    hosts.map("URI:.{}".format),
    networks.map("IP:{}".format),
)
constraints = st.tuples(st.sampled_from(["permitted", "excluded"]), bases).map(";".join)
names = st.one_of(hosts, addresses, hosts.map("https://{}/".format))


@settings(max_examples=150)
@given(st.lists(constraints, min_size=1, max_size=4), names)
def test_guarantee_4_as_openssl_where_it_compares(limits: list[str], san: str) -> None:
    root = constrained(*limits)
    der = root.x509.public_bytes(Encoding.DER)
    host = san.removeprefix("https://").rstrip("/")
    if host == san:
        ours = violation_of([der], host, by_uri=False)
    else:
        only = [each for each in limits if ";URI:" in each]
        ours = violation_of([encoded(*only)], host, by_uri=True) if only else None
    assert refused(root, root, [san]) is (ours is not None)
    # Ours has the words for what OpenSSL refuses.
    certificate = root.issue(None, dns=[san]).certificate().x509
    assert (violation_of_sans(certificate, [der]) is None) is (ours is None)


@given(st.lists(constraints, min_size=1, max_size=4), st.one_of(hosts, addresses))
def test_guarantee_4_a_uri_is_never_allowed_more_than_its_host(
    limits: list[str], host: str
) -> None:
    der = [encoded(*limits)]
    if violation_of(der, host, by_uri=False) is not None:
        assert violation_of(der, host, by_uri=True) is not None


@given(st.lists(constraints, min_size=1, max_size=3), constraints, hosts)
def test_guarantee_4_a_further_authority_only_forbids(
    limits: list[str], more: str, host: str
) -> None:
    chain = [encoded(*limits)]
    for by_uri in (False, True):
        if violation_of(chain, host, by_uri=by_uri) is not None:
            longer = [encoded(more), *chain]
            assert violation_of(longer, host, by_uri=by_uri) is not None


def test_guarantee_4_wildcards_that_openssl_lets_pass() -> None:
    """OpenSSL compares the wildcard as it is written; the host is forbidden here."""
    root = constrained("excluded;DNS:a.team-b.internal")
    assert not refused(root, root, ["*.team-b.internal"])
    der = [root.x509.public_bytes(Encoding.DER)]
    assert violation_of(der, "a.team-b.internal", by_uri=False) is not None
    assert violation_of(der, "b.team-b.internal", by_uri=False) is None


def test_guarantee_4_node_uris_that_openssl_lets_pass() -> None:
    name = NodeName.parse("pay@pay.team-b.internal")
    for text in (A, "excluded;URI:pay.team-b.internal", NOT_B):
        root = constrained(text)
        reads = "URI" in text and openssl_reads_hosts()
        assert refused(root, root, [name.uri]) is reads
        der = [root.x509.public_bytes(Encoding.DER)]
        assert violation_of(der, name.host, by_uri=True) is not None


def test_addresses_are_compared_as_numbers() -> None:
    assert forbids(["permitted;IP:::1/128"], "0:0:0:0:0:0:0:1") is None
    assert ipaddress.ip_address("::1") == ipaddress.ip_address("0:0:0:0:0:0:0:1")
