"""The benchmarks run and print what they promise; how fast is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    """What a benchmark prints."""
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check(cells: list[dict[str, Any]], contenders: set[str]) -> None:
    for cell in cells:
        (samples,) = cell["rounds"]
        assert set(samples) == set(cell["ratios"]) == contenders
        for sample in samples.values():
            assert sample["rate"] > 0
            assert sample["client_cpu"] > 0
            assert sample["server_cpu"] >= 0


def test_throughput() -> None:
    printed = run(
        "bench/throughput.py", "--json", "--rounds", "1", "--seconds", "0.02",
        "--sizes", "64", "1048576", "--outstanding", "2",
    )  # fmt: skip
    report = json.loads(printed)
    titles = [cell["title"] for cell in report["cells"]]
    assert titles == ["one-way, 64 B", "one-way, 1 MiB", "call, 64 B, 2 outstanding"]
    check(
        report["cells"],
        {
            "fastnode",
            "uvloop, coalesced",
            "uvloop, a write per message",
            "asyncio streams",
        },
    )
    assert "p50 us" in report["cells"][2]["rounds"][0]["fastnode"]["extra"]


def test_latency() -> None:
    printed = run(
        "bench/latency.py", "--rounds", "1", "--seconds", "0.05", "--sizes", "1048576"
    )
    lines = printed.splitlines()
    assert len(lines) == 3
    assert all("p99 ratio" in line for line in lines)


def test_handshakes() -> None:
    printed = run(
        "bench/handshakes.py", "--json", "--rounds", "1", "--count", "4",
        "--at-once", "1", "2",
    )  # fmt: skip
    report = json.loads(printed)
    check(
        report["cells"],
        {"fastnode", "uvloop, a write per message", "asyncio streams"},
    )


def test_tables_are_for_people() -> None:
    printed = run(
        "bench/throughput.py", "--rounds", "1", "--seconds", "0.01", "--sizes", "1024",
        "--outstanding", "--contenders", "fastnode", "uvloop, coalesced",
    )  # fmt: skip
    assert "one-way, 1 KiB" in printed
    assert "MB/s" in printed


def test_micro_benchmarks() -> None:
    printed = run("-m", "pytest", "-q", "--benchmark-disable", "bench/micro")
    assert " passed" in printed
