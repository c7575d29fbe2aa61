from collections.abc import Callable
from typing import final

from fastnode.link.protocol import LinkProtocol

@final
class Extensions:
    on_leaving: Callable[[LinkProtocol], None] | None
    @property
    def agreed(self) -> bool: ...
    @property
    def dropped(self) -> int: ...
    @property
    def leaving(self) -> bool: ...
    @property
    def announced(self) -> bool: ...
    def announce(self, grace: float, timeout: float) -> bool: ...
