"""Tests of the modules in BOTH_ENGINES really run with both engines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastnode.openssl.handle import why_unreachable
from fastnode.tls.choice import engine_in_use, make_engine
from fastnode.tls.direct import DirectEngine
from fastnode.tls.memory_bio import MemoryBioEngine
from helpers.nodes import A
from helpers.pki import manager


def test_links_use_the_engine_that_a_test_is_named_after(
    request: pytest.FixtureRequest,
) -> None:
    named = request.node.callspec.params["tls_engine"]
    direct = named == "default" and why_unreachable() is None
    engine = make_engine(manager(A).server_context(), server_side=True)
    assert type(engine) is (DirectEngine if direct else MemoryBioEngine)
    program = "from fastnode.tls.choice import engine_in_use; print(engine_in_use())"
    child = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert child.stdout.strip() == engine_in_use()
    assert ("called directly" in child.stdout) is direct
