"""The list of key-exchange groups: as an option, and in every context that is made."""

from __future__ import annotations

import ssl
import subprocess
import sys
from typing import Any

import pytest

from fastnode import CertManager, ConfigError, NetworkOptions
from fastnode.certs import context as contexts
from fastnode.certs.groups import available_groups, check_available, limit_groups
from fastnode.errors import Side
from fastnode.groups import DEFAULT_GROUPS, KNOWN_GROUPS, canonical_group
from fastnode.openssl.verification import HookedContext, why_unavailable
from helpers import hellos
from helpers.pki import certificate, manager

NAME = "n@localhost"
#: Numbers of IANA that this OpenSSL can be asked for.
AVAILABLE = {n: hellos.GROUPS[n] for n in available_groups() if n in hellos.GROUPS}
DEFAULT = {AVAILABLE[name] for name in DEFAULT_GROUPS if name in AVAILABLE}

reachable = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"OpenSSL: {why_unavailable()}"
)


def offered(context: ssl.SSLContext) -> list[int]:
    """The numbers of the groups that a dialer offers."""
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    body = hellos.extensions_of(out.read())[hellos.SUPPORTED_GROUPS]
    return [int.from_bytes(body[at : at + 2]) for at in range(2, len(body), 2)]


def accepted(context: ssl.SSLContext, group: int) -> bool:
    """Whether an acceptor takes a ClientHello that has that group only."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_side=True)
    # No share: a HelloRetryRequest asks for one.
    into.write(hellos.client_hello([group]))
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        assert hellos.RETRY in out.read()
        return True
    except ssl.SSLError as error:
        if "NO_SUITABLE" in str(error.reason):
            return False
        raise
    raise AssertionError("neither accepted nor refused")


# --- the option ------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "is empty"),
        ((), "is empty"),
        ("X25519", "a sequence of names"),
        (b"X25519", "a sequence of names"),
        (29, "a sequence of names"),
        ([29], "no name of a group"),
        ([None], "no name of a group"),
        ([b"X25519"], "no name of a group"),
        (["X25519", "x25519"], "X25519 twice"),
        (["P-256", "prime256v1"], "P-256 twice"),
        (["X25519", "P-257"], "'P-257', which is not a known"),
        (["X25519:P-256"], "not a known"),
        (["X25519 "], "not a known"),
        ([""], "not a known"),
        (["brainpoolP256r1"], "not a known"),
        (["Ed25519"], "not a known"),
        (["ffdhe2048"], "finite-field"),
        (["X25519", "FFDHE8192"], "finite-field"),
        (["dh_2048"], "finite-field"),
        (["modp4096"], "finite-field"),
    ],
)
def test_guarantee_3_groups_are_checked_when_options_are_made(
    given: Any, words: str
) -> None:
    made = manager(NAME)
    for make in (
        lambda: NetworkOptions(groups=given),
        lambda: made.server_context(groups=given),
        lambda: made.client_context(groups=given),
    ):
        with pytest.raises(ConfigError, match="groups") as caught:
            make()
        assert words in str(caught.value)
        assert caught.value.hint
        assert caught.value.side is Side.LOCAL


def test_names_are_canonical() -> None:
    given = ["x25519", "secp256r1", "P384", "secp521R1", "x25519mlkem768"]
    expected = ("X25519", "P-256", "P-384", "P-521", "X25519MLKEM768")
    assert NetworkOptions(groups=given).groups == expected
    assert NetworkOptions(groups=tuple(given)).groups == expected
    assert NetworkOptions().groups is None
    for name, aliases in KNOWN_GROUPS.items():
        assert {canonical_group(each) for each in (name, *aliases)} == {name}
    assert canonical_group("sect571r1") == "sect571r1"


# --- contexts ------------------------------


@reachable
def test_guarantee_3_every_context_has_an_explicit_list() -> None:
    made, plain = manager(NAME), CertManager(certificate(NAME))
    for client in (
        made.client_context(),
        plain.client_context(),
        made.client_context(insecure_skip_verify=True),
        contexts.make_client_context(
            None,
            root_cas=None,
            minimum_version=ssl.TLSVersion.TLSv1_2,
            insecure_skip_verify=True,
        ),
    ):
        assert set(offered(client)) == DEFAULT
    for server in (
        made.server_context(),
        plain.server_context(),
        made.server_context(insecure_skip_verify=True),
    ):
        assert all(accepted(server, group) for group in DEFAULT)
        # ffdhe2048 to ffdhe8192, and curves that are not in the list.
        for group in (256, 257, 258, 259, 260, hellos.GROUPS["P-521"], 30, 31, 32, 33):
            assert not accepted(server, group)


@reachable
def test_guarantee_3_no_ciphers_of_finite_fields() -> None:
    made = manager(NAME, minimum_version=ssl.TLSVersion.TLSv1_2)
    for context in (made.server_context(), made.client_context()):
        for cipher in context.get_ciphers():
            assert "ECDHE" in cipher["name"] or cipher["protocol"] == "TLSv1.3"


@reachable
def test_a_choice_of_groups_is_all_there_is_in_its_order() -> None:
    made = manager(NAME)
    chosen = ["P-521", "P-256"]
    numbers = [hellos.GROUPS[name] for name in chosen]
    assert offered(made.client_context(groups=chosen)) == numbers
    server = made.server_context(groups=chosen)
    assert {n for n in AVAILABLE.values() if accepted(server, n)} == set(numbers)


def test_contexts_are_cached_for_each_choice() -> None:
    made = manager(NAME)
    for get in (made.server_context, made.client_context):
        context = get(groups=["P-256"])
        assert get(groups=["secp256r1"]) is context
        assert get() is get(groups=None) is not context
        assert get(groups=["X25519"]) is not context


@reachable
def test_what_openssl_does_not_know_changes_nothing() -> None:
    hook = HookedContext(ssl.PROTOCOL_TLS_CLIENT)
    assert hook.set_groups(b"P-384")
    assert not hook.set_groups(b"X25519:no-such-group")
    assert offered(hook.context) == [hellos.GROUPS["P-384"]]


def test_an_unavailable_group_names_those_there_are() -> None:
    check_available(("X25519", "P-256", "P-384"))
    with pytest.raises(ConfigError, match="NOSUCHMLKEM") as caught:
        check_available(("X25519", "NOSUCHMLKEM"))
    assert ssl.OPENSSL_VERSION in caught.value.message
    assert "P-384" in (caught.value.hint or "")


# --- where OpenSSL cannot be reached ------------------------------


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, "P-256"),
        (("X25519", "P-256"), "P-256"),
        (("P-384", "X25519"), "P-384"),
        (("X25519",), "X25519"),
    ],
)
def test_guarantee_3_one_curve_where_openssl_is_out_of_reach(
    chosen: tuple[str, ...] | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contexts, "why_unavailable", lambda: "it is hidden")
    made = manager(NAME)
    number = hellos.GROUPS[expected]
    assert offered(made.client_context(groups=chosen)) == [number]
    server = made.server_context(groups=chosen)
    assert {n for n in hellos.GROUPS.values() if accepted(server, n)} == {number}
    assert not accepted(server, hellos.FFDHE8192)


def test_what_is_available_where_openssl_is_linked_in() -> None:
    """A process of its own: whether OpenSSL can be reached is found out once."""
    program = """
import ssl, sys
del sys.modules["_ssl"].__file__
from fastnode import CertManager, Certificate, ConfigError
from fastnode.certs.groups import available_groups
assert {"P-256", "P-384", "X25519"} <= set(available_groups()), available_groups()
made = CertManager(Certificate.self_signed("x"))
for groups in (None, ["X25519"], ["secp384r1"]):
    made.server_context(groups=groups)
    made.client_context(groups=groups)
from fastnode.tls.choice import make_engine
engine = make_engine(made.client_context(), server_side=False, server_name="x")
engine.receive(b"")
assert engine.group is None
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_a_hook_a_context_has_one_group() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limit_groups(context, None, None)
    assert offered(context) == [hellos.GROUPS["P-256"]]
