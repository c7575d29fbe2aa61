"""Text in the width of the terminal, with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_indented"]


def print_indented(
    console: Console, text: Text, indent: int, first: int | None = None
) -> None:
    """Print a text in lines that begin with blanks, and end without blanks as those of
    `rich.padding.Padding` do.

    Args:
        console: where to print.
        text: what to print.
        indent: blanks before each line.
        first: blanks before the first line; None: as the others.
    """
    blanks = indent if first is None else first
    for line in text.wrap(console, console.width - indent):
        line.rstrip()
        console.print(Text(" " * blanks) + line)
        blanks = indent
