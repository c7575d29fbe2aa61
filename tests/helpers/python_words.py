"""What a reader of the command takes for Python, which the command cannot set."""

from __future__ import annotations

import dataclasses
import re

import fastnode
from fastnode import AcceptorOptions, NetworkOptions, NodeOptions, Route

__all__ = ["PYTHON"]


def settings() -> set[str]:
    """The settings whose names have an underscore. Others are English words too."""
    options = (AcceptorOptions, NetworkOptions, NodeOptions, Route)
    names = {field.name for cls in options for field in dataclasses.fields(cls)}
    names |= {"root_cas", "client_cas", "live_trust", "partial_chains"}
    names |= {"minimum_version"}
    return {name for name in names if "_" in name}


CLASSES = {name for name in fastnode.__all__ if name[0].isupper()}
PYTHON = re.compile(
    rf"\b({'|'.join(sorted(settings()))})\b"
    rf"|\b({'|'.join(sorted(CLASSES))})[.(]"
    r"|\bcert managers?\b|\bits? manager\b|\ba Route\b|\bawait\b|\w\(\)"
    r"|\w=(True|False|\.\.\.|\w+\()"
    r"|\bpass (a|its|the|str)\b"
)
