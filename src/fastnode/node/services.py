"""The services that a node calls, and what they need of it.

`Node.service` makes a `Service` (fastnode.service). A service knows nothing of nodes.
It is given a `ServiceLinks`, which dials targets and finds links for it.

Several services of a node may use one link: the same service with two policies, for
example. So links are counted. When no service uses a link any more, and it was dialed
for one, it is closed in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from fastnode.errors import CloseReason, ConfigError
from fastnode.limits import MAX_SERVICE_INSTANCES
from fastnode.link.link import protocol_of
from fastnode.node.instances import workers_of
from fastnode.node.membership import Membership
from fastnode.service.retry import Retry
from fastnode.service.service import Service

if TYPE_CHECKING:
    from fastnode.discovery.protocol import Discovery
    from fastnode.discovery.target import Target
    from fastnode.link.link import Link
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.context import NodeContext
    from fastnode.node.instances import Instances
    from fastnode.service.status import Policy

__all__ = ["ServiceLinks", "Services"]


class ServiceLinks:
    """What one service needs of its node; fills `fastnode.service.members.ServiceNode`.

    Args:
        services: of the node.
        wanted: which peers belong to the service.
    """

    def __init__(self, services: Services, wanted: Membership) -> None:
        self._services = services
        self._instances = services.instances
        self._wanted = wanted
        self._callbacks: list[Callable[[LinkProtocol, bool], None]] = []

    @property
    def name(self) -> str:
        """``name@host``."""
        return str(self._services.context.name)

    @property
    def instance(self) -> str:
        """The instance id of the node, 32 hexadecimal digits."""
        return self._services.context.settings.hello.instance.hex()

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task, in the context of the node."""
        loop, context = asyncio.get_running_loop(), self._services.context.registry
        return context.context.run(loop.create_task, work)

    async def dial(self, target: Target, *, additional: bool) -> Link:
        """Return a link with the instance at a target, if it belongs to the service.

        Args:
            target: where to dial.
            additional: a link with another worker of a group than those that are linked
                already.

        Raises:
            As `Instances.connect`.
        """
        protocol = await self._instances.connect(
            (target.host, target.port), self._wanted, additional=additional
        )
        link = protocol.link
        assert link is not None
        return link

    def link_with(self, name: str, instance: str) -> Link | None:
        """Return the link with one instance that new messages may take."""
        for protocol in self._services.context.links.links_of(name):
            link = protocol.link
            if link is not None and link.peer.instance == instance:
                why = self._instances.why_no_member(protocol, self._wanted)
                return link if why is None else None
        return None

    def workers_of(self, link: Link) -> int:
        """Return how many workers the group of a peer has; 1: it is alone."""
        return workers_of(protocol_of(link).peer_hello)

    def hold(self, name: str, instance: str) -> None:
        """A service uses the links with an instance from now on."""
        self._services.uses[name, instance] += 1

    def release(self, name: str, instance: str) -> None:
        """A service does not use the links with an instance any more. Close the link if
        it was dialed for a service, and no other service uses it."""
        uses = self._services.uses
        uses[name, instance] -= 1
        if uses[name, instance] > 0:
            return
        del uses[name, instance]
        for protocol in self._services.context.links.links_of(name):
            link = protocol.link
            if link is not None and link.peer.instance == instance:
                if protocol.additional:
                    protocol.begin_close(CloseReason.CLOSED)
                return

    def watch(self, callback: Callable[[], None]) -> None:
        """Call a function whenever a link with an instance may be used from now on, or
        not any more."""

        def changed(protocol: LinkProtocol, usable: bool) -> None:
            del usable
            peer = protocol.peer
            if peer is not None and peer.name.startswith(f"{self._wanted.service}@"):
                callback()

        self._instances.watch(changed)
        self._callbacks.append(changed)

    def unwatch(self) -> None:
        """Call the functions of `watch` no more."""
        for changed in self._callbacks:
            self._instances.unwatch(changed)
        self._callbacks.clear()


class Services:
    """All services that one node calls.

    Args:
        context: of the node.
        instances: dials by address.
        discovery: of `NetworkOptions`; None if there is none.
    """

    def __init__(
        self, context: NodeContext, instances: Instances, discovery: Discovery | None
    ) -> None:
        self.context = context
        self.instances = instances
        self._discovery = discovery
        self._services: dict[tuple[object, ...], Service] = {}
        #: How many services use the links with an instance, by node name and instance.
        self.uses: Counter[tuple[str, str]] = Counter()

    def get(
        self,
        name: str,
        *,
        server_name: str | None,
        policy: Policy,
        max_instances: int,
        retry: Retry | None,
        discovery: Discovery | None,
    ) -> Service:
        """See `Node.service`."""
        wanted = Membership.of(name, server_name)
        if discovery is None:
            discovery = self._discovery
        if discovery is None:
            raise ConfigError(
                f"node {self.context.name} has no discovery for service {name}",
                hint="pass NetworkOptions(discovery=...) or node.service(..., "
                "discovery=...): for example StaticDiscovery, LocalDiscovery, "
                "DnsDiscovery or EtcdDiscovery of fastnode.discovery",
            )
        if not callable(getattr(discovery, "watch", None)):
            raise ConfigError(
                f"discovery is {discovery!r}, which has no watch()",
                hint="see fastnode.discovery.Discovery",
            )
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError(
                f"retry is {retry!r}", hint="write retry=Retry(not_begun=...)"
            )
        if (
            isinstance(max_instances, bool)
            or not isinstance(max_instances, int)
            or not 1 <= max_instances <= MAX_SERVICE_INSTANCES
        ):
            raise ConfigError(
                f"max_instances is {max_instances!r}",
                hint=f"it is a number of instances, from 1 to {MAX_SERVICE_INSTANCES}",
            )
        key = (wanted, policy, max_instances, retry, id(discovery))
        service = self._services.get(key)
        if service is None or service.closed:
            self._forget_closed()
            service = Service(
                ServiceLinks(self, wanted),
                name,
                discovery,
                policy=policy,
                max_instances=max_instances,
                retry=retry,
            )
            self._services[key] = service
        return service

    def _forget_closed(self) -> None:
        for key in [key for key, each in self._services.items() if each.closed]:
            del self._services[key]

    def __iter__(self) -> Iterator[Service]:
        return iter([each for each in self._services.values() if not each.closed])

    async def close(self) -> None:
        """Close all services."""
        services = [each for each in self._services.values() if not each.closed]
        self._services.clear()
        await asyncio.gather(*(each.close() for each in services))
