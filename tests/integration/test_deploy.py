"""What docs/deploy.md shows is accepted by the tools that it is for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastnode.limits import SHUTDOWN_TIMEOUT_SECONDS, WORKER_GRACE_SECONDS
from fastnode.node.health import CheckResult, HealthReport, NodeHealth
from fastnode.workers.stop_signals import hard_seconds
from helpers.documents import table

DEPLOY = (Path(__file__).parents[2] / "docs/deploy.md").read_text()
ANALYZE = shutil.which("systemd-analyze")
#: The program of the unit.
PROGRAM = "/srv/orders/venv/bin/python"


def block(language: str) -> str:
    """The first fenced block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", DEPLOY, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def complaints(unit: str, folder: Path) -> str:
    """What systemd says of a unit."""
    assert ANALYZE is not None
    file = folder / "orders.service"
    # It looks whether the program exists.
    file.write_text(unit.replace(PROGRAM, sys.executable))
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if done.returncode != 0 and "orders.service" not in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
    lines = done.stderr.splitlines()
    return "\n".join(line for line in lines if "orders.service" in line)


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze here")
def test_the_unit_is_good(tmp_path: Path) -> None:
    unit = block("ini")
    assert PROGRAM in unit
    assert complaints(unit, tmp_path) == ""
    # It would say so.
    assert "KillMod" in complaints(unit.replace("KillMode", "KillMod"), tmp_path)


def test_orchestrators_wait_for_the_end() -> None:
    most = hard_seconds(SHUTDOWN_TIMEOUT_SECONDS)
    assert most == SHUTDOWN_TIMEOUT_SECONDS + 2 * WORKER_GRACE_SECONDS
    for pattern in (
        r"TimeoutStopSec=(\d+)",
        r"terminationGracePeriodSeconds: (\d+)",
        r"docker stop --time (\d+)",
        r"stop_grace_period: (\d+)s",
        r"let\s+the orchestrator wait for (\d+) s",
    ):
        found = re.search(pattern, DEPLOY)
        assert found, pattern
        assert int(found[1]) > most, pattern


def test_commands_of_the_image_need_no_shell() -> None:
    """A shell would be process 1, and would keep signals for itself."""
    image = block("dockerfile").replace("\\\n", "")
    first, last = image.split("\n\n")
    assert "slim" not in first
    assert "slim" in last.splitlines()[0]
    for command in re.findall(r"CMD (.*)", last):
        assert all(isinstance(word, str) for word in json.loads(command))


def test_the_reply_of_the_endpoint() -> None:
    failed = CheckResult(False, "ConnectionRefusedError", "refused", 0.002)
    health = NodeHealth("ready", {"database": failed})
    report = HealthReport("orders@10.0.0.5", "5f0c...", lambda: health)
    answer = json.loads(report._encode(health))
    assert json.loads(block("json")) == answer
    rows = [row[0] for row in table(DEPLOY, "field")]
    said = {name for row in rows for name in re.findall(r"`([\w.*]+)`", row)}
    inner = {f"checks.*.{name}" for name in answer["checks"]["database"]}
    assert said == {*answer, *inner}


def test_all_states_are_described() -> None:
    said = [row[0].strip('`"') for row in table(DEPLOY, "`health.state`")]
    assert said == ["starting", "ready", "leaving", "stopped"]
