"""The pytest plugin: fixtures with what `fastnode.testing` offers.

pytest loads it by itself where fastnode is installed (the entry point ``fastnode`` of
the group ``pytest11``). Most fixtures are asynchronous and need pytest-asyncio. Without
it, a test that uses one of them fails with an error that says so.

This file has the fixtures that need no event loop. The others are in `async_fixtures`
and `no_async_fixtures`, of which one is loaded when all plugins are known.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from fastnode import NodeOptions
    from fastnode.testing import ThrowawayAuthority

__all__ = ["fastnode_authority", "fastnode_options", "pytest_configure"]

#: The names under which pytest knows pytest-asyncio: as an entry point, or by ``-p``.
PYTEST_ASYNCIO: Final = ("asyncio", "pytest_asyncio.plugin")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures that fit to the other plugins."""
    plugins = config.pluginmanager
    found = any(plugins.hasplugin(name) for name in PYTEST_ASYNCIO)
    name = "async_fixtures" if found else "no_async_fixtures"
    plugins.register(import_module(f"fastnode.testing.{name}"), f"fastnode {name}")


@pytest.fixture(scope="session")
def fastnode_authority() -> ThrowawayAuthority:
    """A throwaway authority, one for the whole run."""
    # Here: pytest loads this file in every project.
    from fastnode.testing import authority  # noqa: PLC0415

    return authority()


@pytest.fixture
def fastnode_options() -> NodeOptions | None:
    """The options of the nodes of `fastnode_pair` and `fastnode_cluster`.

    None stands for the defaults. Define a fixture with this name to use others.
    """
    return None
