"""The fixtures of the pytest plugin, in a run of pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import fastnode
from fastnode.testing import pytest_plugin

ROOT = Path(__file__).parents[2]
#: The package under test, wherever this process has it from.
PACKAGE = str(Path(fastnode.__file__).parents[1])

PYTEST_ASYNCIO = "pytest_asyncio.plugin"

BOTH_LOOPS = """
import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""

USES_ALL = """
import asyncio

import pytest

from fastnode import CallTimeout, NetworkOptions, NodeOptions, NoRoute
from fastnode.testing import FakeClock, Network

pytestmark = pytest.mark.asyncio


async def test_pair(fastnode_pair):
    a, b = fastnode_pair
    b.handler("echo")(lambda message: message.payload)
    assert await a.call(b.name, "echo", b"hi", timeout=50) == b"hi"
    assert a.links[0].peer.verified


async def test_cluster(fastnode_cluster):
    nodes = await fastnode_cluster(4)
    others = await fastnode_cluster(["x@127.0.0.1", "y@127.0.0.1"])
    assert [len(nodes), len(others)] == [4, 2]
    await nodes[0].connect(nodes[3].name)
    await others[1].connect(others[0].name)


async def test_network(fastnode_network, fastnode_pair, fastnode_cluster):
    a, b = fastnode_pair
    c, d = await fastnode_cluster(2)
    for one, other in ((a, b), (c, d)):
        fastnode_network.cut(one, other)
        with pytest.raises(NoRoute):
            await one.connect(other.name)
    fastnode_network.restore()
    await a.connect(b.name)


async def test_clock(fastnode_clock, fastnode_pair):
    a, b = fastnode_pair
    begun = asyncio.Event()

    @b.handler("never")
    async def never(message):
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(a.call(b.name, "never", b"", timeout=3600))
    await begun.wait()
    await fastnode_clock.advance(3600)
    with pytest.raises(CallTimeout):
        await call


async def test_authority(fastnode_authority, fastnode_pair):
    assert fastnode_authority.certificate("c@127.0.0.1").sans


class TestOptions:
    @pytest.fixture
    def fastnode_options(self):
        return NodeOptions(network=NetworkOptions(plaintext=True))

    async def test_options(self, fastnode_pair):
        a, b = fastnode_pair
        assert (await a.connect(b.name)).peer.tls_version is None
"""

NEEDS_ASYNC = """
import pytest

FIXTURES = ["fastnode_pair", "fastnode_cluster", "fastnode_network", "fastnode_clock"]


@pytest.mark.parametrize("name", FIXTURES)
def test_missing(request, name):
    request.getfixturevalue(name)


def test_authority(fastnode_authority):
    assert fastnode_authority.pool()
"""


#: What the tests on the pages import.
IMPORTS = """
import pytest
from fastnode import MessageTooLarge, NetworkOptions, Node, NodeOptions
from fastnode.testing import pair

pytestmark = pytest.mark.asyncio
"""


def shown_by(page: str) -> str:
    """The tests that a page shows, as a file."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [block for block in blocks if "async def test_" in block]
    assert shown, page
    return "\n\n".join([IMPORTS, *shown])


def run(folder: Path, text: str, *plugins: str) -> tuple[int, str]:
    """Run pytest over a file with these plugins alone: its status and its output."""
    (folder / "test_it.py").write_text(text)
    chosen = [word for plugin in plugins for word in ("-p", plugin)]
    if PYTEST_ASYNCIO in plugins:
        (folder / "conftest.py").write_text(BOTH_LOOPS)
        chosen += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "pytest", "-q", *chosen),
            *("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)),
            str(folder),
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": PACKAGE,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_fixtures_work_on_both_loops(tmp_path: Path) -> None:
    """And so do the tests in the documents."""
    (tmp_path / "test_page.py").write_text(shown_by("docs/testing.md"))
    (tmp_path / "test_readme.py").write_text(shown_by("README.md"))
    status, said = run(tmp_path, USES_ALL, PYTEST_ASYNCIO, pytest_plugin.__name__)
    assert status == 0, said
    assert "18 passed" in said


def test_without_pytest_asyncio_the_fixtures_say_what_is_missing(
    tmp_path: Path,
) -> None:
    status, said = run(tmp_path, NEEDS_ASYNC, pytest_plugin.__name__)
    assert status == 1, said
    assert "4 failed, 1 passed" in said
    for name in ("pair", "cluster", "network", "clock"):
        assert f"the fixture fastnode_{name} needs pytest-asyncio" in said
    assert "pip install 'fastnode[pytest]'" in said


def test_the_plugin_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["pytest11"]
    assert points == {"fastnode": pytest_plugin.__name__}
    assert any(
        "pytest-asyncio" in each for each in project["optional-dependencies"]["pytest"]
    )
