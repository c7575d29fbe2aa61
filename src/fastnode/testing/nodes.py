"""Nodes for a test: started, introduced to each other, and stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from fastnode import ConfigError, NodeOptions
from fastnode.limits import DEFAULT_PORT
from fastnode.names import NodeName
from fastnode.node.node import Node, start_node
from fastnode.testing.certificates import ThrowawayAuthority
from fastnode.testing.certificates import authority as make_authority
from fastnode.testing.network import Network
from fastnode.testing.routes import LOOPBACK, introduce, is_loopback

__all__ = ["cluster", "pair"]

#: How long nodes may take to stop at the end of a test, unless the options say
#: otherwise: the default of services is too long for a test that has failed.
SHUTDOWN_SECONDS: Final = 5.0


@asynccontextmanager
async def pair(
    first: str = "alpha@127.0.0.1",
    second: str = "beta@127.0.0.1",
    *,
    options: NodeOptions | Sequence[NodeOptions] | None = None,
    authority: ThrowawayAuthority | None = None,
    network: Network | None = None,
    plaintext: bool = False,
) -> AsyncIterator[tuple[Node, Node]]:
    """Start two nodes that can connect with each other. See `cluster`.

    Example::

        async with pair() as (a, b):
            b.handler("echo")(lambda message: message.payload)
            assert await a.call(b.name, "echo", b"hello", timeout=5.0) == b"hello"

    Args:
        first, second: the names of the nodes.
        options, authority, network, plaintext: as of `cluster`.

    Raises:
        ConfigError: an argument or an option cannot work.
    """
    async with cluster(
        (first, second),
        options=options,
        authority=authority,
        network=network,
        plaintext=plaintext,
    ) as (a, b):
        yield a, b


@asynccontextmanager
async def cluster(
    nodes: int | Sequence[str] = 3,
    *,
    options: NodeOptions | Sequence[NodeOptions] | None = None,
    authority: ThrowawayAuthority | None = None,
    network: Network | None = None,
    plaintext: bool = False,
) -> AsyncIterator[tuple[Node, ...]]:
    """Start nodes that can connect with each other, and stop them at the end.

    The nodes listen on free ports of this machine. The hosts in their names do not
    matter.
    They use mutual TLS with certificates of a throwaway authority. Each has a route to
    each other node. No link is made before a test needs one.

    Args:
        nodes: how many, or their names. The names of a number of nodes are
            ``node1@127.0.0.1``, ``node2@127.0.0.1`` and so on.
        options: the options of all nodes, or a sequence with the options of each node.
            A node whose options have no cert manager gets one of the authority. An
            acceptor with the default port gets a free port, and one without a host
            listens on the loopback device. A node whose options have a resolver gets
            no routes.
        authority: issues the certificates. The default is a new authority.
        network: the nodes connect through it, so that the test can make faults. It is
            closed at the end.
        plaintext: do without TLS.

    Yields:
        The nodes, in the order of their names.

    Raises:
        ConfigError: an argument or an option cannot work.
    """
    names = _names_of(nodes)
    ready = _options_of(names, options, authority, plaintext)
    if network is not None and not isinstance(network, Network):
        raise ConfigError(
            f"network is a {type(network).__name__}, not a Network",
            hint="pass fastnode.testing.Network(); NetworkOptions go into options=",
        )
    async with AsyncExitStack() as stack:
        if network is not None:
            await stack.enter_async_context(network)
        started: list[Node] = []
        for name, each in zip(names, ready, strict=True):
            node = await start_node(name, each)
            started.append(await stack.enter_async_context(node))
        for node, each in zip(started, ready, strict=True):
            if each.network.resolver is None:
                await _introduce_all(node, started, network)
        if network is not None:
            stack.callback(network.release)
        yield tuple(started)


async def _introduce_all(
    node: Node, others: Sequence[Node], network: Network | None
) -> None:
    for other in others:
        # Nobody can dial a node without an acceptor. Routes of the options come first.
        if other is node or not other.acceptors or node.routes(other.name):
            continue
        if network is None:
            introduce(node, other)
        else:
            await network.introduce(node, other)


def _names_of(nodes: int | Sequence[str]) -> list[str]:
    """Return the names of the nodes, checked and in their normal form."""
    if isinstance(nodes, int) and not isinstance(nodes, bool) and nodes > 0:
        return [f"node{number + 1}@127.0.0.1" for number in range(nodes)]
    if not isinstance(nodes, Sequence) or isinstance(nodes, (str, bytes)) or not nodes:
        raise ConfigError(
            f"a cluster of {nodes!r}",
            hint="give the number of nodes, or a sequence of node names",
        )
    names = [str(NodeName.parse(name)) for name in nodes]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two nodes have the same name: {', '.join(names)}",
            hint="give each node a name of its own; instances of one service have "
            "different hosts: billing@a.example, billing@b.example",
        )
    return names


def _options_of(
    names: Sequence[str],
    options: NodeOptions | Sequence[NodeOptions] | None,
    authority: ThrowawayAuthority | None,
    plaintext: bool,
) -> list[NodeOptions]:
    """Return the options of each node, complete."""
    given = _one_for_each(names, options)
    if plaintext:
        given = [
            replace(each, network=replace(each.network, plaintext=True))
            for each in given
        ]
    if authority is not None and not isinstance(authority, ThrowawayAuthority):
        raise ConfigError(
            f"authority is a {type(authority).__name__}, not an authority",
            hint="pass fastnode.testing.authority()",
        )
    complete = []
    for name, each in zip(names, given, strict=True):
        manager = each.cert_manager
        if manager is None and not each.network.plaintext:
            authority = authority or make_authority()
            manager = authority.manager(name)
        complete.append(replace(_on_this_machine(name, each), cert_manager=manager))
    return complete


def _one_for_each(
    names: Sequence[str], options: NodeOptions | Sequence[NodeOptions] | None
) -> list[NodeOptions]:
    if options is None:
        options = NodeOptions(shutdown_timeout=SHUTDOWN_SECONDS)
    if isinstance(options, NodeOptions):
        return [options] * len(names)
    good = isinstance(options, Sequence) and all(
        isinstance(each, NodeOptions) for each in options
    )
    if not good:
        raise ConfigError(
            f"options is a {type(options).__name__}, and not the options of nodes",
            hint="pass NodeOptions(...), or a sequence with one for each node",
        )
    if len(options) != len(names):
        raise ConfigError(
            f"{len(options)} options for {len(names)} nodes",
            hint="pass one NodeOptions for all nodes, or one for each of them",
        )
    return list(options)


def _on_this_machine(name: str, options: NodeOptions) -> NodeOptions:
    """Return the options with free ports, and with hosts that this machine has."""
    acceptors = []
    for each in options.network.acceptors:
        host, port = each.host, each.port
        if each.listener is None:
            if host is None and not is_loopback(NodeName.parse(name).host):
                host = LOOPBACK
            if port == DEFAULT_PORT:
                port = 0
        acceptors.append(replace(each, host=host, port=port))
    return replace(options, network=replace(options.network, acceptors=acceptors))
