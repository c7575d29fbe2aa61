"""No source file grows without a thought.

About 500 lines are a guide, not a reason to split one idea into two files. A file over
this bound holds more than one idea.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
MAX_LINES = 810


def test_no_source_file_is_too_long() -> None:
    sizes = {
        path.relative_to(SOURCE).as_posix(): len(path.read_bytes().splitlines())
        for path in SOURCE.rglob("*")
        if path.suffix in (".py", ".pyx", ".pxd")
    }
    assert sizes
    too_long = {path: lines for path, lines in sizes.items() if lines > MAX_LINES}
    assert not too_long, f"over {MAX_LINES} lines: {too_long}"
