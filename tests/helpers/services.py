"""Instances of a service for tests: nodes that share a name, and a caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastnode import Message, Node
from fastnode.discovery import StaticDiscovery, Target
from helpers.nodes import A, running

SHOP = "shop@127.0.0.1"


def target(node: Node, weight: int = 100) -> Target:
    """Where a node listens."""
    return Target(*node.acceptors[0].address, weight)


@dataclass
class Shop:
    """A caller, and the instances of a service that it calls.

    Attributes:
        caller: the node that calls.
        nodes: the instances.
        discovery: names them.
        got: how many calls to "count" each instance has had, by instance id.
    """

    caller: Node
    nodes: list[Node]
    discovery: StaticDiscovery
    got: Counter[str] = field(default_factory=Counter)

    def serve(self, node: Node) -> None:
        """Register the endpoints of an instance: "count", "who" and "echo"."""

        @node.handler("count")
        def count(message: Message) -> bytes:
            self.got[node.instance] += 1
            return b""

        @node.handler("who")
        def who(message: Message) -> bytes:
            self.got[node.instance] += 1
            return node.instance.encode()

        @node.handler("echo")
        async def echo(message: Message) -> bytes:
            return bytes(message.payload)

    def name(self, nodes: Iterable[Node]) -> None:
        """Let the discovery name these instances."""
        self.discovery.replace({"shop": [target(each) for each in nodes]})


@asynccontextmanager
async def shop(count: int, **options: Any) -> AsyncIterator[Shop]:
    """So many instances of "shop", and a caller that finds them.

    Args:
        options: of the instances, as for `running`.
    """
    discovery = StaticDiscovery({})
    async with AsyncExitStack() as stack:
        caller = await stack.enter_async_context(running(A, discovery=discovery))
        made = Shop(caller, [], discovery)
        for _ in range(count):
            node = await stack.enter_async_context(running(SHOP, **options))
            made.nodes.append(node)
            made.serve(node)
        made.name(made.nodes)
        yield made
