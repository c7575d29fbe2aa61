"""What other processes do for tests of errors. Importable by them."""

from __future__ import annotations

from fastnode import FastnodeError

__all__ = ["raised"]


def raised(error: FastnodeError) -> None:
    """Raise an error that came from another process; it goes back from there."""
    error.add_note("raised in another process")
    raise error
