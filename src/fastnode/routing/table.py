"""The routes of a node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fastnode.errors import ConfigError
from fastnode.routing.route import Route

__all__ = ["RouteTable"]


class RouteTable:
    """Routes by pattern; a pattern stands in it once."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes: dict[str, tuple[re.Pattern[str], Route]] = {}
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Add a route.

        Raises:
            ConfigError: a route with the same `match` is in the table.
        """
        if route.match in self._routes:
            raise ConfigError(
                f"there is a route for {route.match!r} already",
                hint="remove it first, or write a different pattern",
            )
        self._routes[route.match] = (re.compile(route.match), route)

    def remove(self, match: str) -> Route:
        """Take the route with this pattern out and return it.

        Raises:
            ConfigError: there is none.
        """
        try:
            return self._routes.pop(match)[1]
        except (KeyError, TypeError):
            raise ConfigError(f"there is no route for {match!r}") from None

    def matching(self, name: str) -> tuple[Route, ...]:
        """All routes that match a node name, heaviest first; among equals in the
        order in which they were added."""
        found = [r for pattern, r in self._routes.values() if pattern.search(name)]
        return tuple(sorted(found, key=lambda route: -route.weight))

    def __iter__(self) -> Iterator[Route]:
        return iter([route for _pattern, route in self._routes.values()])

    def __len__(self) -> int:
        return len(self._routes)
