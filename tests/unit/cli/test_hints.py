"""No hint that reaches the command names a setting of Python programs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastnode.cli import hints
from fastnode.cli.hints import by_options
from helpers.python_words import PYTHON

#: The sources, and not the package that is installed: a wheel has no `.pyx` files.
PACKAGE = Path(__file__).parents[3] / "src" / "fastnode"
#: The command does not load these, or is itself.
OTHERS = {"blocking", "cli", "discovery", "service", "testing", "workers"}


#: Texts that never reach the command, by the reason.
NEVER = {
    "the command makes managers, pools and certificates from files": (
        "use Certificate.load, from_pem, load_pkcs12 or self_signed",
        "make one with Certificate.load or Certificate.from_pem",
        "use Certificate.load",
        "pass str, bytes, or a callable that returns one of them",
        "ClientAuth.{} is not available: {}",
    ),
    "the command changes no trust of a manager that a node uses": (
        (
            "client_auth and server_name are fixed at start, with live_trust=True too: "
            "restart the node"
        ),
        (
            "CA pools, client_auth and server_name are fixed at start: restart the "
            "node, or make its manager with live_trust=True, which allows CA pools to "
            "be replaced"
        ),
        (
            "CA pools are fixed at start: restart the node; with live_trust=True, "
            "assign a new pool to its manager"
        ),
        "make the manager with live_trust=True",
    ),
    "the command requires and verifies certificates": (
        (
            "%s lets anybody in: client_cas is set, but client_auth is %s, which "
            "verifies no dialer; set "
            "client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, or leave "
            "client_cas out"
        ),
        (
            "{} would be taken for verified though no name is: the cert manager has "
            "verify_server_name=False, the node verify_peer_name=False and no "
            "authorize hook"
        ),
        (
            "leave one of the two at True, pass authorize (a SpiffeRule, for example), "
            "or say insecure_skip_verify=True"
        ),
        "node {} has no cert manager",
    ),
    "the command has no rules, hooks or listeners of its own": (
        "SpiffeRule.path is a str, not {}",
        "SpiffeRule.path {} is no regular expression: {}",
        "AcceptorOptions.listener does not listen",
        "AcceptorOptions.listener cannot be used: {}",
        "start a task in it: asyncio.get_running_loop().create_task(...)",
        "on_refused raised on %s",
        "the callback of on_link_up",
        "the callback of on_link_down",
        "endpoint {} has max_waiting, but calls never wait there",
        ": encode it: .encode()",
        (
            'NetworkOptions.recheck="close" is not available: the OpenSSL of this '
            "interpreter cannot be reached: {}"
        ),
    ),
    "the command checks its options before it makes those of the library": (
        (
            "CertAuthManager(certificate, client_cas=..., client_auth=..., "
            "root_cas=...) makes one of a Certificate"
        ),
        "NodeOptions.network is a NetworkOptions, not {}",
        "write NodeOptions(network=NetworkOptions(...))",
        "Route.port is 0: nothing can be reached there",
        "Route.match {} is no regular expression: {}",
        "pass a CertManager or CertAuthManager",
    ),
    "the command uses no services": (
        "the host that server_name= of {} names",
        (
            "does the discovery name the right targets, and do their certificates "
            "belong to the service? wait_for_ready=True waits for an instance"
        ),
        (
            "pass NetworkOptions(discovery=...) or node.service(..., discovery=...): "
            "for example StaticDiscovery, LocalDiscovery, DnsDiscovery or "
            "EtcdDiscovery of fastnode.discovery"
        ),
        "write retry=Retry(not_begun=...)",
        (
            "say where peers reach it: AcceptorOptions(advertise=(host, port)), with "
            "port 0 for the port that it listens on"
        ),
    ),
    "the command uses nodes and links from one loop, as they are meant": (
        (
            "one node, one loop; from another thread: "
            "asyncio.run_coroutine_threadsafe(node.call(...), loop).result()"
        ),
        (
            "from a thread: asyncio.run_coroutine_threadsafe(node.call(...), "
            "loop).result(), where loop is the one that made the node"
        ),
        "write node.add_route(Route(match, host, port))",
        "use await start_node(...)",
    ),
}


#: What is wrong with the value of a setting. The command checks its options before it
#: makes those of the library.
VALUE = re.compile(
    r"(\{\})?([\w.]+|[Tt]he max_waiting of \{\}) is (an? )?(\{\}|not |no )"
)


def texts_of_python(tree: ast.Module) -> Iterator[str]:
    """All strings but docstrings, with {} for what is formatted in."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
        elif isinstance(node, ast.Expr):
            skipped.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (getattr(part, "value", "{}") for part in node.values)
            yield "".join(part if isinstance(part, str) else "{}" for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts_of_cython(source: str) -> Iterator[str]:
    """The same; strings that stand one after the other are one."""
    source = re.sub(r'"""(?:\\.|[^\\])*?"""', "", source, flags=re.DOTALL)
    one = r'f?"((?:\\.|[^"\\\n])*)"'
    for row in re.finditer(rf"{one}(?:\s+{one})*", source):
        yield re.sub(r"\{[^{}]*\}", "{}", "".join(re.findall(one, row[0])))


def texts() -> list[str]:
    """What the library may say to a user of the command."""
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py*")):
        if path.relative_to(PACKAGE).parts[0] in OTHERS:
            continue
        if path.suffix == ".py":
            found += texts_of_python(ast.parse(path.read_text()))
        elif path.suffix == ".pyx":
            found += texts_of_cython(path.read_text())
    return [text for text in found if " " in text]


TEXTS = texts()


def test_texts_are_found() -> None:
    assert len(TEXTS) > 1000
    assert list(texts_of_cython('x(f"a {b} " "c",\n "d")')) == ["a {} c", "d"]
    source = 'def f():\n    """A doc."""\n    x(f"a {b} " "c", "d")'
    assert sorted(texts_of_python(ast.parse(source))) == ["a {} c", "d"]
    assert PYTHON.search("pass NodeOptions(cert_manager=...)")
    assert PYTHON.search("compare NetworkOptions.groups of both sides")
    assert not PYTHON.search("give --cert and --key, and check the address (IPv6)")


def test_each_hint_names_options_of_the_command() -> None:
    """A new hint needs a row in `fastnode.cli.hints`, or a reason here."""
    never = {text for group in NEVER.values() for text in group}
    wrong = {
        text
        for text in TEXTS
        if PYTHON.search(by_options(text))
        if text not in never
        if not VALUE.match(text)
    }
    assert wrong == set()


@pytest.mark.parametrize("reason", NEVER)
def test_exceptions_are_needed(reason: str) -> None:
    for text in NEVER[reason]:
        assert text in TEXTS
        assert PYTHON.search(by_options(text)) or "cert manager" in text, text


def test_rows_of_the_table_are_needed() -> None:
    told = [*TEXTS, "raise max_links of the acceptor"]
    told += ["or raise max_links_per_peer of the acceptor"]
    told += ["or raise max_links of the acceptor"]
    for setting in hints._OPTIONS:
        assert any(setting in text for text in told), setting
    for pattern, _ in hints._PATTERNS:
        assert any(pattern.search(text) for text in told), pattern


def test_the_table_stands_alone() -> None:
    """No row makes text that another row changes again."""
    for option in hints._OPTIONS.values():
        assert by_options(option) == option
        assert not PYTHON.search(option), option


def test_nothing_else_changes() -> None:
    assert by_options(None) == ""
    assert by_options("check host and port") == "check host and port"
