"""Exception handlers in Cython are left at their end, or by `raise`.

Where memory runs out, an exception may have no traceback. The C code that Cython makes
for a `return`, `break` or `continue` inside of an `except` block dereferences it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.pyx"))
LOOP = re.compile(r"(for|while)\b")
HANDLER = re.compile(r"except\b.*:")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_leaves_a_handler_early(path: Path) -> None:
    # What each line is inside of: the indentation, and whether that is a handler.
    inside: list[tuple[int, bool]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        indentation = len(line) - len(line.lstrip())
        while inside and indentation <= inside[-1][0]:
            inside.pop()
        if HANDLER.match(text) or LOOP.match(text):
            inside.append((indentation, bool(HANDLER.match(text))))
        handlers = [is_handler for _, is_handler in inside]
        early = (text.startswith("return") and any(handlers)) or (
            text in ("break", "continue") and handlers[-1:] == [True]
        )
        assert not early, f"{path.name}, line {number}"
