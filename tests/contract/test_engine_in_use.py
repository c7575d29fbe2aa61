"""Tests of the modules in BOTH_ENGINES really run with both engines."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys

import pytest

from fastnode import tls_engine
from fastnode.openssl.handle import why_unreachable
from fastnode.tls.choice import engine_in_use, make_engine
from fastnode.tls.direct import DirectEngine
from fastnode.tls.memory_bio import MemoryBioEngine
from helpers.nodes import A, running
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


async def test_a_node_logs_its_engine(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(A):
        pass
    engine = tls_engine()
    lines = [each for each in caplog.messages if "uses TLS of" in each]
    assert lines == [f"{A} uses TLS of {engine}"]
    assert engine.openssl == ssl.OPENSSL_VERSION
    named = request.node.callspec.params["tls_engine"]
    direct = named == "default" and why_unreachable() is None
    assert engine.name == ("direct" if direct else "memory-bio")
    assert (engine.why_not_direct is None) is direct
    caplog.clear()
    async with running(A, plaintext=True):
        assert "uses TLS" not in caplog.text
