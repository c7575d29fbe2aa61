"""What the commands that dial a node have in common: options, the node, the time."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastnode.cli.options import Identity, identity_options
from fastnode.cli.values import ADDRESS, HOST, NODE_NAME, SECONDS
from fastnode.errors import CallTimeout, Side
from fastnode.names import NodeName

if TYPE_CHECKING:
    from fastnode.node.node import Node

__all__ = ["Dial", "dial_options", "run_dialer", "time_limit"]

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

#: Time for links to end in order when a command is done, seconds.
SHUTDOWN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Dial:
    """How to reach a node, and who asks.

    Attributes:
        identity: the files of this side.
        own_name: the node name of this side; None: the one in the certificate.
        route: where the node is; None: its name says it.
        server_name: the name to verify in its certificate; None: its host.
        timeout: of --timeout, seconds.
    """

    identity: Identity
    own_name: NodeName | None
    route: tuple[str, int] | None
    server_name: str | None
    timeout: float

    @asynccontextmanager
    async def node(self, peer: NodeName) -> AsyncIterator[Node]:
        """Run a node that only dials, with a route to one peer."""
        from fastnode import NetworkOptions, NodeOptions, Route, start_node

        routes = []
        if self.route is not None:
            routes.append(Route(f"^{re.escape(str(peer))}$", *self.route))
        options = NodeOptions(
            cert_manager=self.identity.manager(self.server_name),
            network=NetworkOptions(acceptors=(), routes=routes),
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        name = str(self.identity.node_name(self.own_name))
        async with await start_node(name, options) as own:
            yield own


def dial_options(timeout_help: str) -> Callable[[Command], Command]:
    """Add the options of a command that dials. The command gets them as `dial`.

    Args:
        timeout_help: what --timeout is the time for.
    """

    def decorate(command: Command) -> Command:
        @identity_options
        @click.option(
            "--as",
            "own_name",
            type=NODE_NAME,
            help="Your own node name.  [default: the fastnode:// name in --cert]",
        )
        @click.option(
            "--name",
            "server_name",
            type=HOST,
            help="The name to verify in the node's certificate.  [default: its host]",
        )
        @click.option(
            "--route",
            type=ADDRESS,
            help="The address of the node.  [default: its host, port 15000]",
        )
        @click.option(
            "--timeout",
            type=SECONDS,
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help=timeout_help,
        )
        @functools.wraps(command)
        def wrapper(
            *args: Any,
            identity: Identity,
            own_name: NodeName | None,
            server_name: str | None,
            route: tuple[str, int] | None,
            timeout: float,
            **kwargs: Any,
        ) -> Any:
            dial = Dial(identity, own_name, route, server_name, timeout)
            return command(*args, dial=dial, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def run_dialer(main: Coroutine[Any, Any, Result]) -> Result:
    """Run the main coroutine of a command that dials."""
    from fastnode.node.runner import run

    # A node logs the end of its only link. The command reports the same as an error.
    logging.getLogger("fastnode").addHandler(logging.NullHandler())
    return run(main)


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Raise `CallTimeout` if the body takes longer than --timeout."""
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise CallTimeout(
            f"not done within {seconds:g} s",
            timeout=seconds,
            side=Side.REMOTE,
            hint="give it more time with --timeout",
        ) from error
