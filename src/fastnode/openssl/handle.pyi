import ssl
from collections.abc import Callable
from typing import final

@final
class Handle:
    @property
    def ssl(self) -> ssl.SSLObject | ssl.SSLSocket: ...
    @property
    def group(self) -> str | None: ...

def why_unreachable() -> str | None: ...
def wrap(
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_name: str | None = None,
    incoming: ssl.MemoryBIO | None = None,
    outgoing: ssl.MemoryBIO | None = None,
) -> Handle | None: ...
def adopt(
    make: Callable[[], ssl.SSLObject | ssl.SSLSocket],
    context: ssl.SSLContext,
    *,
    server_side: bool,
    attempts: int = 1,
) -> Handle | None: ...
