"""What a discovery is: the protocols that fastnode calls, and what it gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from fastnode.discovery.target import Target

__all__ = ["AnnouncedAcceptor", "AnnouncedNode", "AnnouncingDiscovery", "Discovery"]


class AnnouncedAcceptor(Protocol):
    """The part of an `Acceptor` that an announcement needs."""

    @property
    def advertised(self) -> tuple[str, int]:
        """Host and port where peers reach the acceptor."""


class AnnouncedNode(Protocol):
    """The part of a `Node` that an announcement needs."""

    @property
    def name(self) -> str:
        """``name@host``."""

    @property
    def instance(self) -> str:
        """Identifies this run of the node; 32 hexadecimal digits."""

    @property
    def acceptors(self) -> Sequence[AnnouncedAcceptor]:
        """Where the node listens."""


@runtime_checkable
class Discovery(Protocol):
    """Finds the targets of a service, and follows them as they change.

    ``isinstance(thing, Discovery)`` says whether a thing has the methods. A discovery
    that can also announce is an `AnnouncingDiscovery`.
    """

    def watch(self, service: str) -> AsyncIterator[Sequence[Target]]:
        """Follow the targets of a service.

        Args:
            service: the name of the service: the part before the @ of its node names.

        Returns:
            An iterator over sets of targets. The first set comes as soon as it is
            known, and further sets come when something has changed. Each set is whole
            and replaces the one before. An empty set says that no instance exists.
            While nobody can tell, no set comes, and the last one stays valid. A slow
            consumer may miss sets, but not the newest one.

            The iterator does not end by itself. A consumer that stops calls its
            ``aclose()``, if it has one. If the iterator raises or ends, the consumer
            keeps the last set, and calls `watch` again after a pause.
        """


@runtime_checkable
class AnnouncingDiscovery(Discovery, Protocol):
    """A discovery that nodes can enter themselves into."""

    def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        """Announce a node as an instance of services, as long as the context lasts.

        A node enters the context when it is ready, and leaves it when it is not.

        Args:
            node: the node. `advertised` of its acceptors are the addresses to announce.
            services: the names of the services.

        Returns:
            A context manager. When it has been entered, watchers find the node. When it
            has been left, or when the process is gone, they do not. Entering raises if
            the node could not be announced; the caller enters a new context after a
            pause. Between entering and leaving, the discovery repairs the announcement
            by itself.
        """
