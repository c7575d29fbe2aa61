"""What a worker runs: the node's name, its options, its handlers."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeAlias

from fastnode.errors import ConfigError, Side
from fastnode.names import NodeName

if TYPE_CHECKING:
    from fastnode.node.node import Node
    from fastnode.options import NodeOptions

__all__ = ["Application", "MakeOptions", "Setup"]

#: Makes the options of a node, in each worker for itself.
MakeOptions: TypeAlias = "Callable[[], NodeOptions | Awaitable[NodeOptions]]"
#: Is given the started node. What it returns is awaited, or entered as an ``async
#: with`` that ends after the node has stopped.
Setup: TypeAlias = "Callable[[Node], SetUp]"
SetUp: TypeAlias = "Awaitable[object] | AbstractAsyncContextManager[object] | None"


@dataclass(frozen=True, slots=True)
class Application:
    """Travels to the workers by pickle, so its functions go by their names.

    Attributes:
        name: ``name@host``.
        options: a function, or ``"module:function"``.
        setup: the same; None: nothing.
    """

    name: str
    options: MakeOptions | str
    setup: Setup | str | None

    def check(self) -> None:
        """Raise `ConfigError` unless a worker could load it."""
        NodeName.parse(self.name)
        for what, value in (("options", self.options), ("setup", self.setup)):
            if isinstance(value, str) or (value is None and what == "setup"):
                continue  # a module is imported where it is used
            if not callable(value):
                raise ConfigError(
                    f"{what} is {value!r}, which cannot be called",
                    side=Side.LOCAL,
                    hint="each worker makes its own: give a function",
                )
            try:
                pickle.dumps(value)
            except Exception as error:
                raise ConfigError(
                    f"{what} cannot be given to another process: {error}",
                    side=Side.LOCAL,
                    hint="give a function that a module defines at its top level, or "
                    "its name, 'module:function'",
                ) from error

    def make_options(self) -> Any:
        """Call `options`."""
        return load("options", self.options)()

    def set_up(self, node: Node) -> Any:
        """Call `setup`."""
        return None if self.setup is None else load("setup", self.setup)(node)


def load(what: str, function: Any) -> Callable[..., Any]:
    """The function itself, or the one of that name."""
    found = function
    if isinstance(function, str):
        try:
            found = resolve_name(function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{what} {function!r} cannot be loaded: {error}",
                side=Side.LOCAL,
                hint="'module:function', where the module can be imported",
            ) from error
    if not callable(found):
        raise ConfigError(f"{what} {function!r} cannot be called", side=Side.LOCAL)
    return found  # type: ignore[no-any-return]
