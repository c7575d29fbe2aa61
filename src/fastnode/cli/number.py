"""Numbers in options: finite ones."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["DAYS", "SECONDS"]


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` that takes no NaN, which is in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Convert, or fail as click does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


#: How long a certificate lasts.
DAYS = FiniteRange(0.01, 36500)
#: How long a command may take.
SECONDS = FiniteRange(0, 86400, min_open=True)
