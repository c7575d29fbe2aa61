"""StaticDiscovery: targets that the program itself knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from fastnode.discovery.target import Target, normal_targets
from fastnode.discovery.watch import Publish, Watch
from fastnode.errors import ConfigError
from fastnode.names import check_service

__all__ = ["StaticDiscovery", "TargetLike"]

#: A `Target`, or its arguments as a tuple.
TargetLike: TypeAlias = Target | tuple[str, int] | tuple[str, int, int]


class StaticDiscovery:
    """Targets from a mapping, which the program can replace at run time.

    A service that is not in the mapping has no instances. All methods may be called
    from any thread. ::

        billing = [Target("10.0.0.7", 15000), Target("10.0.0.8", 15000, weight=50)]
        discovery = StaticDiscovery({"billing": billing})

    Args:
        mapping: targets by the names of services. A target is a `Target`, or a tuple of
            its arguments.

    Raises:
        ConfigError: the mapping cannot be used.
    """

    def __init__(self, mapping: Mapping[str, Iterable[TargetLike]]) -> None:
        self._lock = threading.Lock()
        self._services = _checked(mapping)
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def replace(self, mapping: Mapping[str, Iterable[TargetLike]]) -> None:
        """Replace all targets of all services.

        Raises:
            ConfigError: the mapping cannot be used. Nothing has changed.
        """
        services = _checked(mapping)
        with self._lock:
            self._services = services
            self._tell()

    def update(self, mapping: Mapping[str, Iterable[TargetLike]]) -> None:
        """Replace the targets of the services in the mapping, and leave the others.

        Raises:
            ConfigError: the mapping cannot be used. Nothing has changed.
        """
        services = _checked(mapping)
        with self._lock:
            self._services = {**self._services, **services}
            self._tell()

    def watch(self, service: str) -> Watch:
        """See `Discovery.watch`.

        Raises:
            ConfigError: `service` cannot be the name of a service.
        """
        name = check_service(service)

        async def follow(publish: Publish) -> None:
            watcher = (asyncio.get_running_loop(), asyncio.Event())
            with self._lock:
                self._watchers.add(watcher)
            try:
                while True:
                    watcher[1].clear()
                    publish(self._services.get(name, ()))
                    await watcher[1].wait()
            finally:
                with self._lock:
                    self._watchers.discard(watcher)

        return Watch(name, follow)

    def _tell(self) -> None:
        for loop, news in self._watchers:
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(news.set)

    def __repr__(self) -> str:
        return f"<StaticDiscovery: {len(self._services)} services>"


def _checked(
    mapping: Mapping[str, Iterable[TargetLike]],
) -> dict[str, tuple[Target, ...]]:
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"the targets of a StaticDiscovery are a {type(mapping).__name__}",
            hint='write StaticDiscovery({"billing": [Target("10.0.0.7", 15000)]})',
        )
    return {
        check_service(service): normal_targets(map(_target, _listed(service, targets)))
        for service, targets in mapping.items()
    }


def _listed(service: str, targets: Iterable[TargetLike]) -> Iterable[TargetLike]:
    if isinstance(targets, (str, bytes, Target)) or not isinstance(targets, Iterable):
        raise ConfigError(
            f"the targets of service {service} are {targets!r}",
            hint="write a list: [Target(host, port)]",
        )
    return targets


def _target(given: TargetLike) -> Target:
    if isinstance(given, Target):
        return given
    if isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return Target(*given)
    raise ConfigError(f"{given!r} is not a target", hint="write Target(host, port)")
