"""What a program runs: the name of its node, its options, its handlers."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from inspect import isasyncgen, isawaitable, isgenerator
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeAlias

from fastnode.errors import ConfigError, Side
from fastnode.names import NodeName
from fastnode.options import NodeOptions

if TYPE_CHECKING:
    from fastnode.node.node import Node

__all__ = ["Application", "MakeOptions", "Setup"]

#: Makes the options of a node, in each worker for itself.
MakeOptions: TypeAlias = "Callable[[], NodeOptions | Awaitable[NodeOptions]]"
#: Is given the started node. What it returns is awaited, or entered as an ``async
#: with`` that ends after the node has stopped.
Setup: TypeAlias = "Callable[[Node], SetUp]"
SetUp: TypeAlias = "Awaitable[object] | AbstractAsyncContextManager[object] | None"


@dataclass(frozen=True, slots=True)
class Application:
    """Travels to workers by pickle, so its functions go by their names there.

    Attributes:
        name: ``name@host``.
        options: the options, where there are no workers; or a function that makes them,
            or ``"module:function"``.
        setup: a function, or ``"module:function"``; None: nothing.
    """

    name: str
    options: NodeOptions | MakeOptions | str
    setup: Setup | str | None

    def check_here(self) -> None:
        """Raise `ConfigError` unless this process could run it."""
        NodeName.parse(self.name)
        if not (isinstance(self.options, NodeOptions | str) or callable(self.options)):
            raise ConfigError(
                f"options is {self.options!r}",
                side=Side.LOCAL,
                hint="pass NodeOptions(...), or a function that returns them",
            )
        if not (self.setup is None or isinstance(self.setup, str)) and (
            not callable(self.setup)
        ):
            raise ConfigError(
                f"setup is {self.setup!r}, which cannot be called",
                side=Side.LOCAL,
                hint="pass a function that takes the node, or None",
            )

    def check(self) -> None:
        """Raise `ConfigError` unless a worker could load it."""
        NodeName.parse(self.name)
        for what, value in (("options", self.options), ("setup", self.setup)):
            if isinstance(value, str) or (value is None and what == "setup"):
                continue  # a module is imported where it is used
            if not callable(value):
                # The text of options is long.
                ready = isinstance(value, NodeOptions)
                shown = "a NodeOptions" if ready else repr(value)
                raise ConfigError(
                    f"{what} is {shown}, which cannot be called",
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
        """Return the options, or what the function returns that makes them."""
        if isinstance(self.options, NodeOptions):
            return self.options
        return load("options", self.options)()

    async def finished_options(self) -> NodeOptions:
        """Return the options; wait for them if they are made asynchronously.

        Raises:
            ConfigError: the function cannot be loaded, or returns something else.
        """
        options = self.make_options()
        if isawaitable(options):
            options = await options
        if not isinstance(options, NodeOptions):
            raise ConfigError(
                f"options returned {options!r}, no NodeOptions", side=Side.LOCAL
            )
        return options

    async def set_up(self, node: Node, cleanup: AsyncExitStack) -> None:
        """Call `setup`, and wait until it is done.

        Args:
            cleanup: gets what `setup` has to do after the node has stopped.

        Raises:
            ConfigError: `setup` cannot be loaded, or returns a generator.
        """
        if self.setup is None:
            return
        done: Any = load("setup", self.setup)(node)
        if hasattr(done, "__aenter__"):
            await cleanup.enter_async_context(done)
        elif isawaitable(done):
            await done
        elif isasyncgen(done) or isgenerator(done):
            # Nothing of its body would run, and nobody would be told.
            raise ConfigError(
                f"setup returned a generator: {done!r}",
                side=Side.LOCAL,
                hint="write @contextlib.asynccontextmanager above an async function "
                "that yields",
            )
        elif hasattr(done, "__enter__"):
            raise ConfigError(
                f"setup returned a context manager that is not asynchronous: {done!r}",
                side=Side.LOCAL,
                hint="use contextlib.asynccontextmanager and an async function",
            )


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
