"""Routes: where and how to connect to a node, by the pattern of its name."""

from fastnode.routing.route import Route
from fastnode.routing.table import RouteTable

__all__ = ["Route", "RouteTable"]
