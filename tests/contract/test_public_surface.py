"""The names that users import, and the stubs that type checkers read instead."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

import fastnode
from fastnode import testing

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
STUBS = sorted(SOURCE.rglob("*.pyi"))

API = {
    "AcceptorOptions",
    "CertAuthManager",
    "CertManager",
    "CertPool",
    "Certificate",
    "ClientAuth",
    "Link",
    "Message",
    "NetworkOptions",
    "Node",
    "NodeOptions",
    "NodeStats",
    "Peer",
    "Reply",
    "Retry",
    "Route",
    "Service",
    "SpiffeId",
    "SpiffeRule",
    "WorkerGroup",
    "current_message",
    "run",
    "run_node",
    "serve",
    "start_node",
    "tls_engine",
}
#: Each error, and what it has to be caught as.
ERRORS: dict[str, tuple[str | type[BaseException], ...]] = {
    "FastnodeError": (Exception,),
    "ConfigError": ("FastnodeError", ValueError),
    "SettingsFrozenError": ("ConfigError",),
    "CertificateError": ("FastnodeError",),
    "CertificateLoadError": ("CertificateError",),
    "HandshakeError": ("FastnodeError", ConnectionError),
    "CertificateRequired": ("HandshakeError",),
    "UnknownAuthority": ("HandshakeError",),
    "CertificateExpired": ("HandshakeError",),
    "CertificateRevoked": ("HandshakeError",),
    "RevocationListExpired": ("HandshakeError",),
    "HostnameMismatch": ("HandshakeError",),
    "PeerNameMismatch": ("HandshakeError",),
    "NotAuthorized": ("HandshakeError",),
    "HandshakeTimeout": ("HandshakeError",),
    "TooManyConnections": ("HandshakeError",),
    "LinkClosed": ("FastnodeError", ConnectionError),
    "LinkLost": ("LinkClosed",),
    "ProtocolError": ("FastnodeError",),
    "CallTimeout": ("FastnodeError", TimeoutError),
    "CallError": ("FastnodeError",),
    "Busy": ("FastnodeError",),
    "RemoteError": ("FastnodeError",),
    "NoSuchEndpoint": ("FastnodeError",),
    "MessageTooLarge": ("FastnodeError",),
    "SendQueueFull": ("FastnodeError",),
    "NoInstance": ("NoRoute",),
    "NoRoute": ("FastnodeError",),
    "OutOfResources": ("FastnodeError",),
    "WorkerFailed": ("FastnodeError",),
}
#: What the names above are described with: types of their arguments and attributes.
SUPPORT = {
    "Acceptor",
    "AcceptorStats",
    "BroadcastResult",
    "CertificateWatch",
    "CheckResult",
    "CloseReason",
    "DialStats",
    "Distribution",
    "EndpointStats",
    "InstanceStatus",
    "Keeper",
    "LinkStats",
    "Listener",
    "NodeHealth",
    "Refusal",
    "RenewalStats",
    "Resolver",
    "ServiceStats",
    "Side",
    "TlsEngineInfo",
    "Undelivered",
    "WatchUpdate",
    "WorkerStatus",
}


def test_all_is_the_contract() -> None:
    assert len(fastnode.__all__) == len(set(fastnode.__all__))
    assert set(fastnode.__all__) == API | set(ERRORS) | SUPPORT


@pytest.mark.parametrize("name", sorted(API | set(ERRORS) | SUPPORT))
def test_every_name_is_there(name: str) -> None:
    assert hasattr(fastnode, name)


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_caught_as_promised(name: str) -> None:
    error = getattr(fastnode, name)
    for base in ERRORS[name]:
        expected = getattr(fastnode, base) if isinstance(base, str) else base
        assert issubclass(error, expected)


def test_all_of_testing_is_the_contract() -> None:
    """`pair`, `cluster` and `authority`, and what they are used with."""
    assert set(testing.__all__) == {
        "CertificateFiles",
        "FakeClock",
        "Network",
        "ThrowawayAuthority",
        "authority",
        "cluster",
        "pair",
    }
    assert set(testing.__all__) <= set(dir(testing))
    for name in testing.__all__:
        value = getattr(testing, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'cluter'"):
        testing.cluter  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_is_typed() -> None:
    assert (SOURCE / "fastnode" / "py.typed").is_file()


def imported_by_python() -> set[str]:
    """Modules of fastnode that some Python file of the repository imports."""
    found: set[str] = set()
    for folder in ("src", "tests", "bench", "examples", "wheels"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module)
                    found.update(f"{node.module}.{a.name}" for a in node.names)
    return found


def test_extension_modules_that_python_imports_have_stubs() -> None:
    imported = imported_by_python()
    missing = [
        path.relative_to(SOURCE).as_posix()
        for path in sorted(SOURCE.rglob("*.pyx"))
        if module_of(path) in imported and not path.with_suffix(".pyi").exists()
    ]
    assert not missing


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def declared(body: list[ast.stmt], prefix: str = "") -> list[str]:
    """The names that a stub promises, members as ``Class.member``."""
    names: list[str] = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            names.append(prefix + node.name)
            names += declared(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(prefix + node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(prefix + node.target.id)
        elif isinstance(node, ast.Assign):
            names += [prefix + t.id for t in node.targets if isinstance(t, ast.Name)]
    # A single underscore marks what only the stub needs: type variables, aliases.
    # The buffer protocol has a Python name since 3.12 (PEP 688).
    unseen = r"(^|\.)_(?!_)" + ("" if sys.version_info >= (3, 12) else r"|__buffer__")
    return [name for name in names if not re.search(unseen, name)]


@pytest.mark.parametrize("path", STUBS, ids=module_of)
def test_what_a_stub_declares_exists(path: Path) -> None:
    assert path.with_suffix(".pyx").exists(), "a stub without its module"
    module = importlib.import_module(module_of(path))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = []
    for name in declared(tree.body):
        value: object = module
        for part in name.split("."):
            if not hasattr(value, part):
                missing.append(name)
                break
            value = getattr(value, part)
    assert not missing, f"declared in {path.name}, absent at run time: {missing}"
