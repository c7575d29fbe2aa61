"""A forked child is no second owner of a node."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from helpers.nodes import all_at_once


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_guarantee_11_a_forked_child_has_no_part_in_its_parent_s_node() -> None:
    await all_at_once(fork, ("own",), ("same",), ("collect",))


async def fork(how: str) -> None:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "helpers.fork_main", loop, how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    child, parent = map(json.loads, done.stdout.splitlines())
    assert parent == {
        "status": 7,
        "closed": False,
        "late": "late",
        "alive": ["None", "None"],
    }
    if how != "collect":
        assert len(child) == 12 + (how == "same")
    for use, came in child.items():
        assert came.startswith("ConfigError: "), (use, came)
        if how == "same":
            assert "one process" in came, (use, came)
    # The parent's peer may handle what was sent before the fork.
    assert child.get("call under way", "maybe").endswith("maybe")
