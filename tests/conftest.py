"""Both loops for every asynchronous test, and leaks that fail the test."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from hypothesis import HealthCheck, settings

from fastnode.buffers.pool import live_slabs
from fastnode.tls.choice import ENGINE_VARIABLE

FALLBACK = "memory-bio"
#: Modules whose tests are run with both engines of TLS.
BOTH_ENGINES = {
    "test_burden",
    "test_client_auth_matrix",
    "test_coalescing",
    "test_engine_in_use",
    "test_hostile_peer",
    "test_key_exchange",
    "test_lanes",
    "test_name_constraints",
    "test_refusals",
    "test_reset_reasons",
    "test_rotation",
    "test_strangers",
}
#: How long transports may take to close their sockets after a test.
SETTLE_SECONDS = 20.0

# A busy machine takes its time over an example now and then; that says nothing of it.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


# A shell that starts the suite in the background has it ignore SIGINT, and whatever it
# starts would ignore it too: with a handler here, children begin as they should.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each asynchronous test on stock asyncio and on uvloop, but those that are
    marked ``one_loop`` on uvloop only."""
    if item.get_closest_marker("one_loop") is not None:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What depends on the engine of TLS runs with both; the rest with the default."""
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_ENGINES:
        metafunc.parametrize("tls_engine", ["default", FALLBACK], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The other engine is tried on one loop: what differs does not know any."""
    items[:] = [item for item in items if not _on_stock_loop_with_fallback(item)]


def _on_stock_loop_with_fallback(item: pytest.Item) -> bool:
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return FALLBACK in values and asyncio.new_event_loop in values


# Autouse: pytest drops a fixture that no test asks for, parametrized or not.
@pytest.fixture(autouse=True)
def tls_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the engine of all links of a test, and of its child processes.

    A test that is not in BOTH_ENGINES uses the engine of the whole run.
    """
    engine = getattr(request, "param", None)
    if engine is None:
        return
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    if engine != "default":
        monkeypatch.setenv(ENGINE_VARIABLE, engine)


def open_sockets() -> set[str]:
    """The TCP sockets of this process, by inode.

    Not the others: uvloop makes a new pair for signals whenever it is run.
    """
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:  # closed since it was listed
            continue
        if target.startswith("socket:"):
            with socket.socket(fileno=os.dup(int(descriptor.name))) as copy:
                if copy.family in (socket.AF_INET, socket.AF_INET6):
                    found.add(target)
    return found


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slabs that are taken and not released fail the test."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("clean_loop")
    before = live_slabs()
    yield
    if live_slabs() != before:
        gc.collect()
    assert live_slabs() == before, "slabs leaked"


@pytest_asyncio.fixture
async def clean_loop() -> AsyncIterator[None]:
    """Tasks, sockets and complaints that a test leaves behind fail it."""
    loop = asyncio.get_running_loop()
    complaints: list[str] = []

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    loop.set_exception_handler(complain)
    tasks = asyncio.all_tasks()
    sockets = open_sockets()
    yield
    deadline = loop.time() + SETTLE_SECONDS
    while loop.time() < deadline:
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        if not left and not open_sockets() - sockets:
            break
        # The loop has to turn for transports to close; nothing is timed by this.
        await asyncio.sleep(0.005)
    left = {t for t in asyncio.all_tasks() - tasks if t is not asyncio.current_task()}
    assert not left, f"tasks leaked: {left}"
    leaked = open_sockets() - sockets
    assert not leaked, f"sockets leaked: {leaked}"
    assert not complaints, f"the loop complained: {complaints}"
