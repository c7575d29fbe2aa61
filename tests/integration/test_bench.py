"""The benchmarks run and print what they promise; how fast is not judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


def run(*command: str | Path, code: int = 0) -> str:
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
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def quick(*options: str | Path) -> str:
    """The same of what runs everything, in short."""
    return run("bench/run.py", "--quick", "--seconds", "0.01", *options)


def cells(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of the only round, by title and contender."""
    read: dict[str, Any] = json.loads(path.read_text())
    return {cell["title"]: cell["rounds"][0] for cell in read["cells"]}


def test_two_versions() -> None:
    printed = run(
        "bench/compare.py", sys.executable, sys.executable,
        "--quick", "--only", "one-way", "--rounds", "1", "--seconds", "0.01",
    )  # fmt: skip
    heads, *rows = printed.splitlines()
    assert heads.split() == ["old/s", "new/s", "rate", "CPU"]
    assert len(rows) == 4
    for row in rows:
        assert all(float(figure.replace(",", "")) > 0 for figure in row.split()[-4:])


def test_traffic(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    printed = quick(
        "--only", "one-way", "--json", path,
        "--contender", "fastnode", "uvloop, coalesced",
    )  # fmt: skip
    found = cells(path)
    assert list(found) == [
        "one-way, 64 B", "one-way, 1 KiB", "one-way, 16 KiB", "one-way, 1 MiB",
    ]  # fmt: skip
    for title, samples in found.items():
        assert set(samples) == {"fastnode", "uvloop, coalesced"}
        for figures in samples.values():
            assert figures["rate"] > 0
            assert figures["client us"] > 0
            assert figures["server us"] >= 0
        assert title in printed
    # What was measured can be shown again.
    assert run("bench/run.py", "--from", path) == printed
    judged = run("bench/run.py", "--from", path, "--bars")
    assert "not measured" in judged
    assert judged.startswith(printed.rstrip())


def test_links(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    quick(
        "--only", "call", "fan-in", "handshakes", "half-load", "memory", "import",
        "--contender", "fastnode", "--json", path,
    )  # fmt: skip
    found = cells(path)
    assert found["call, 64 B, 16 outstanding"]["fastnode"]["p50 us"] > 0
    for title in ("handshakes, 1 at once", "handshakes, 32 at once", "fan-in, 4 links"):
        assert found[title]["fastnode"]["rate"] > 0
    load = found["call, 64 B, at half of the highest rate"]["fastnode"]
    assert 0 < load["p50 us"] <= load["p99 us"] <= load["max us"]
    assert found["import"]["fastnode"]["ms"] > 0
    if sys.platform == "linux":
        assert "RSS KiB" in found["memory, 40 idle links"]["fastnode"]


def test_calls_with_metadata(tmp_path: Path) -> None:
    """Only contenders that have metadata take part."""
    path = tmp_path / "samples.json"
    printed = quick(
        "--only", "metadata", "--json", path,
        "--contender", "fastnode", "asyncio streams", "grpcio",
    )  # fmt: skip
    found = cells(path)
    title = "call with metadata, 64 B, 16 outstanding"
    assert found[title]["fastnode"]["p50 us"] > 0
    assert set(found[title]) <= {"fastnode", "grpcio"}
    if importlib.util.find_spec("grpc") is None:
        assert "grpc is not installed" in printed
    else:
        assert found[title]["grpcio"]["p50 us"] > 0


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and cc"
)
def test_the_c_program(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    printed = quick(
        "--only", "one-way", "call", "fan-in", "handshakes", "half-load",
        "--contender", "C", "C, no tickets", "--json", path,
    )  # fmt: skip
    if "C program: not built" in printed:
        pytest.skip(next(line for line in printed.splitlines() if "not built" in line))
    found = cells(path)
    assert found["one-way, 1 MiB"]["C"]["rate"] > 0
    assert found["call, 64 B, 16 outstanding"]["C"]["p50 us"] > 0
    assert set(found["handshakes, 32 at once"]) == {"C", "C, no tickets"}


def judged(path: Path, ours: float) -> Path:
    """Samples of two rounds as a file, fastnode at `ours` of C."""
    figures = {"rate": 100.0, "client us": 1.0, "server us": 1.0}
    samples = {"fastnode": figures | {"rate": 100.0 * ours}, "C": figures}
    cell = {
        "group": "one-way", "title": "one-way, 1 KiB", "unit": "messages",
        "main": "rate", "size": 1024, "rounds": [samples, samples],
    }  # fmt: skip
    path.write_text(json.dumps({"machine": {}, "cells": [cell]}))
    return path


def test_a_bar_that_is_missed_fails_when_asked(tmp_path: Path) -> None:
    good = judged(tmp_path / "good.json", 0.8)
    assert " met" in run("bench/run.py", "--from", good, "--check")
    bad = judged(tmp_path / "bad.json", 0.7)
    assert "missed" in run("bench/run.py", "--from", bad, "--check", code=1)
    run("bench/run.py", "--from", bad, "--bars")


def test_latency() -> None:
    printed = run(
        "bench/latency.py", "--rounds", "1", "--seconds", "0.05", "--sizes", "1048576"
    )
    lines = printed.splitlines()
    assert len(lines) == 3
    assert all("p99 ratio" in line for line in lines)


def test_services() -> None:
    printed = run("bench/services.py", "--rounds", "1", "--calls", "640")
    for name in ("link.call", "service.call", "service.call, key="):
        assert printed.count(f"\n{name:20} ") == 1


def test_busy_poll() -> None:
    printed = run(
        "bench/busy_poll.py", "--rounds", "1", "--seconds", "0.05", "--busy", "0", "1"
    )
    titles = [line for line in printed.splitlines() if line.startswith("beside")]
    assert titles == ["beside 0 busy processes", "beside 1 busy processes"]
    for name in ("fastnode", "fastnode, busy_poll=0"):
        assert printed.count(f"  {name:28} ") == 2


def test_micro_benchmarks() -> None:
    printed = run("-m", "pytest", "-q", "--benchmark-disable", "bench/micro")
    assert " passed" in printed


def test_a_restart() -> None:
    printed = run("bench/restart.py", "--dialers", "20", "--processes", "2")
    assert "20 dialers in 2 processes" in printed
    assert "| all links are back after |" in printed
