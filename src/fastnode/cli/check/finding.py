"""One step of an examination, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Finding"]


@dataclass(slots=True)
class Finding:
    """One step.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be; None: for information.
        found: in a sentence.
        details: further lines.
        hint: what to do about it, where it is not as it should be.
    """

    name: str
    ok: bool | None
    found: str
    details: list[str] = field(default_factory=list)
    hint: str | None = None
