"""Groups of commands: what they say of names that do not exist."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click

__all__ = ["Commands"]


class Commands(click.Group):
    """Suggests the right command for a wrong one, with every version of click."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command."""
        name = args[0]
        if (
            ctx.resilient_parsing  # a shell completes the command line
            or name.startswith("-")
            or self.get_command(ctx, name) is not None
        ):
            return super().resolve_command(ctx, args)
        known = self.list_commands(ctx)
        close = get_close_matches(name, known)
        remedy = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else f"The commands are {', '.join(known)}."
        )
        raise click.UsageError(f"No such command {name!r}. {remedy}", ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse options. Say so if an option of a command stands before the command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if not self._belongs_to_command(ctx, name):
                raise
            raise click.NoSuchOption(
                name,
                f"No such option {name!r} here. Give it after the command.",
                ctx=ctx,
            ) from None

    def _belongs_to_command(self, ctx: click.Context, option: str) -> bool:
        commands: list[Any] = [
            self.get_command(ctx, n) for n in self.list_commands(ctx)
        ]
        return any(option in p.opts for each in commands for p in each.params)
