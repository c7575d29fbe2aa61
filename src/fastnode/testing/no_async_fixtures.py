"""Stand-ins for the asynchronous fixtures, where pytest-asyncio is not in use."""

from __future__ import annotations

from typing import NoReturn

import pytest

from fastnode import ConfigError

__all__ = ["fastnode_clock", "fastnode_cluster", "fastnode_network", "fastnode_pair"]


@pytest.fixture
def fastnode_network() -> NoReturn:
    """Say what is missing."""
    _fail("fastnode_network")


@pytest.fixture
def fastnode_pair() -> NoReturn:
    """Say what is missing."""
    _fail("fastnode_pair")


@pytest.fixture
def fastnode_cluster() -> NoReturn:
    """Say what is missing."""
    _fail("fastnode_cluster")


@pytest.fixture
def fastnode_clock() -> NoReturn:
    """Say what is missing."""
    _fail("fastnode_clock")


def _fail(name: str) -> NoReturn:
    raise ConfigError(
        f"the fixture {name} needs pytest-asyncio, which is not in use",
        hint="pip install 'fastnode[pytest]'; without it, call the functions of "
        "fastnode.testing in your tests",
    )
