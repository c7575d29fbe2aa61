"""The results of the demo, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console  # noqa: TC002 - beside its siblings
from rich.text import Text

from fastnode.cli.console import print_indented

__all__ = ["Report", "Step"]

#: Blanks before what a step found.
INDENT = 2


@dataclass(slots=True)
class Step:
    """One step of the demo.

    Attributes:
        name: what was done.
        ok: whether the result is right.
        found: the result, in a sentence.
        details: numbers and names, for --json.
        quotes: what the two sides said, word for word.
    """

    name: str
    ok: bool
    found: str
    details: dict[str, Any] = field(default_factory=dict)
    quotes: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """All steps."""

    steps: list[Step] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every step has the right result."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the object of --json."""
        return {"ok": self.ok, "steps": [asdict(step) for step in self.steps]}

    def show_step(self, console: Console, step: Step) -> None:
        """Print a step and what the two sides said."""
        console.print(Text.assemble(mark(ok=step.ok), " ", (step.name, "bold")))
        print_indented(console, Text(step.found), INDENT)
        for who, words in step.quotes:
            quote = Text.assemble((f"{who}: ", "cyan"), (words, "dim"))
            print_indented(console, quote, INDENT)

    def show_verdict(self, console: Console) -> None:
        """Print one line at the end, which repeats no result."""
        total = len(self.steps)
        failed = [step.name for step in self.steps if not step.ok]
        if failed:
            text = f"{len(failed)} of {total} steps failed: {', '.join(failed)}"
            console.print(Text(text, "bold red"))
        else:
            console.print(Text(f"all {total} steps are as they should be", "bold"))


def mark(*, ok: bool) -> Text:
    """Pass or fail, readable without colours."""
    return Text("ok", "green") if ok else Text("FAIL", "bold red")
