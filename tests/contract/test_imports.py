"""What `import fastnode` loads: a program pays for what it names, and no more."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import version

import pytest

import fastnode

#: Extras, what only some programs need, and cryptography, which takes longer to import
#: than all the rest together.
HEAVY = {"aiohttp", "click", "cryptography", "dns", "rich", "uvloop", "watchfiles"}
#: What only tests need.
FOR_TESTS = {"pytest", "pytest_asyncio"}
#: What a node needs, and a program that only describes one does not.
LOOP = {"asyncio", "ssl", "fastnode.node.node", "fastnode.link.link"}


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after some code, in an interpreter of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import fastnode", HEAVY | LOOP | {"fastnode.testing"}),
        ("from fastnode import NetworkOptions, NodeOptions, Route", HEAVY | LOOP),
        ("from fastnode import ClientAuth", HEAVY | LOOP),
        ("from fastnode import Node, run, start_node", HEAVY),
        ("from fastnode import Acceptor, Keeper, Link, Refusal", HEAVY),
        ("from fastnode import CertAuthManager", HEAVY - {"cryptography"}),
        ("from fastnode.blocking import Client", HEAVY),
        ("from fastnode.discovery import Target, StaticDiscovery, kit", HEAVY),
        ("from fastnode.discovery import DnsDiscovery, LocalDiscovery", HEAVY),
        ("import fastnode.cli.main", HEAVY - {"click"}),
        ("import fastnode.testing", HEAVY | LOOP | FOR_TESTS),
        ("import fastnode.testing.pytest_plugin", HEAVY | {"fastnode.node.node"}),
        ("from fastnode.testing import *", FOR_TESTS),
    ],
)
def test_what_is_not_loaded(code: str, never: set[str]) -> None:
    assert not loaded_by(code) & never


def test_the_version_is_looked_up_when_it_is_asked_for() -> None:
    assert "importlib.metadata" not in loaded_by("import fastnode")
    assert fastnode.__version__ == version("fastnode")
    assert "__version__" in dir(fastnode)


def test_a_node_without_certificates_never_loads_cryptography() -> None:
    code = """
import asyncio
from fastnode import AcceptorOptions, NetworkOptions, NodeOptions, Route, start_node

def options(*acceptors):
    network = NetworkOptions(acceptors=acceptors, plaintext=True)
    return NodeOptions(network=network)

async def main():
    here = await start_node("a@127.0.0.1", options(AcceptorOptions(port=0)))
    async with here, await start_node("b@127.0.0.1", options()) as there:
        here.handler("echo")(lambda message: message.payload)
        host, port = here.acceptors[0].address
        there.add_route(Route("a@", host, port))
        assert await there.call("a@127.0.0.1", "echo", b"x", timeout=50) == b"x"

asyncio.run(main())
"""
    assert not loaded_by(code) & HEAVY


def test_all_names_are_listed_before_they_are_loaded() -> None:
    code = "import fastnode\nassert set(fastnode.__all__) <= set(dir(fastnode))"
    assert "fastnode.node.node" not in loaded_by(code)
    assert set(fastnode.__all__) <= set(dir(fastnode))


@pytest.mark.parametrize("name", fastnode.__all__)
def test_a_name_is_the_object_that_its_module_has(name: str) -> None:
    value = getattr(fastnode, name)
    assert getattr(sys.modules[value.__module__], name) is value
    assert pickle.loads(pickle.dumps(value)) is value


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Certifcate'"):
        fastnode.Certifcate  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="Certifcate"):
        from fastnode import Certifcate  # type: ignore[attr-defined]  # noqa: F401
