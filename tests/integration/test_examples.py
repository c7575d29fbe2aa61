"""The examples run to their end and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastnode

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Generous: an example takes a second.
TIMEOUT_SECONDS = 50.0
SLOW = "blocked the loop for"

PRINTED = {
    "echo_pair.py": (
        "link to echo@127.0.0.1 at 127.0.0.1:",
        "(verified), TLSv1.3",
        "10000 messages came back, in order: True",
    ),
    "request_reply.py": (
        "apple: 3",
        "together: 3 4",
        "melon: KeyError: b'melon'",
        "refund: shop@127.0.0.1 has no endpoint 'refund'",
        "delivery: no reply from 'delivery' within 0.2 s",
        "shop: customer@127.0.0.1 waits no more, delivery cancelled",
    ),
    "rotate_certs.py": (
        "the old link lives: hello, True",
        "the new link sees the new one: True",
        "refused: the new certificate expired",
        "the new one is still in use: True",
        "refused: client_auth cannot be changed",
    ),
    "workers.py": (
        "customers of each worker: [4, 4]",
        "after a restart: [4, 4]",
        "by other processes: True",
    ),
    "custom_resolver.py": (
        "directory: where is red@127.0.0.1?",
        "by the directory: red for asker@127.0.0.1",
        "by a route: blue for asker@127.0.0.1",
        "not at all: the resolver knows no address of green@127.0.0.1",
    ),
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example(name: str, tmp_path: Path) -> None:
    # The package under test, wherever this process has it from.
    package = str(Path(fastnode.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    # A handler waits for a processor where the machine is busy, and is told of.
    told = [line for line in done.stderr.splitlines() if SLOW not in line]
    assert (done.returncode, told) == (0, [])
    for text in PRINTED[name]:
        assert text in done.stdout
    # Nothing is left on the disk, keys least of all.
    assert list(tmp_path.iterdir()) == []
    assert len(done.stdout.splitlines()) < 20
