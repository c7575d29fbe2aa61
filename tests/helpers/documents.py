"""Parts of a document in Markdown: its tables and sections."""

from __future__ import annotations

import re

__all__ = ["section", "table"]


def table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose header row begins with the cell `first`."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == first and not inside:
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not cells[0].startswith("---"):
            rows.append(cells)
    assert rows, f"no table that begins with {first!r}"
    return rows


def section(text: str, title: str) -> str:
    """Return the text below a heading, up to the next heading."""
    found = re.search(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]
