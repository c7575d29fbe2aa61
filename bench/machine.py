"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import ssl
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from contenders.floor import NotBuilt, build

PACKAGES = (
    "fastnode", "uvloop", "cython", "aiofastnet", "picows", "pyzmq", "grpcio",
)  # fmt: skip


def describe() -> dict[str, str]:
    """The machine and the versions that matter."""
    installed = {name: _version(name) for name in PACKAGES}
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{load} (1, 5, 15 minutes)",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "C program": _floor(),
        "packages": ", ".join(f"{k} {v}" for k, v in installed.items() if v),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _floor() -> str:
    try:
        return build().note
    except NotBuilt as reason:
        return f"not built: {reason}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
