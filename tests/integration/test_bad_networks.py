"""One link, the same on both sides, whatever the network does with packets."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from helpers import lossy

needs_namespaces = pytest.mark.skipif(bool(lossy.missing()), reason=lossy.missing())
#: What a busy machine adds to a time.
SLACK_SECONDS = 3.0


async def run(scenario: str) -> dict[str, Any]:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helpers.lossy", scenario, loop,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(55):
            said, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode == 0, errors.decode()
    found: dict[str, Any] = json.loads(said)
    return found


@needs_namespaces
async def test_simultaneous_dials_where_a_fifth_of_the_packets_is_lost() -> None:
    assert await run("simultaneous") == {
        "same": lossy.PAIRS,
        # Not one link that came and went.
        "events": ["up"],
        "count": 2 * lossy.PAIRS,
    }


@needs_namespaces
async def test_a_side_that_lost_its_link_unheard_gets_another_in_time() -> None:
    found = await run("one_way_reset")
    assert found["lost 0"]
    assert found["lost 1"]
    # The acceptor's side is checked by who dialed; the other is believed at once.
    assert found["seconds 0"] < SLACK_SECONDS
    assert found["seconds 1"] < 3.0 + 1.0 + SLACK_SECONDS


@needs_namespaces
async def test_what_is_not_acknowledged_ends_the_link() -> None:
    found = await run("unacknowledged")
    assert found["lost"]
    assert found["seconds"] < 1.5 + SLACK_SECONDS
