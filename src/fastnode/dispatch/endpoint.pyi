from collections.abc import Callable
from typing import Any, final

from fastnode.dispatch.context import HandlerContext
from fastnode.log_limit import LogLimit

@final
class EndpointRegistry:
    def __init__(self) -> None: ...
    @property
    def generation(self) -> int: ...
    @property
    def context(self) -> HandlerContext: ...
    @property
    def limited(self) -> LogLimit: ...
    def add(
        self,
        name: str,
        handler: Callable[..., Any],
        concurrency: int | None = None,
        batch: bool = False,
    ) -> None: ...
    def set_fallback(self, handler: Callable[..., Any] | None) -> None: ...
    def __len__(self) -> int: ...
