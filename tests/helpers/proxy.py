"""The TCP proxy of `fastnode.testing`, for tests that need all that it can do."""

from fastnode.testing.proxy import Proxy, Way

__all__ = ["Proxy", "Way"]
