from collections.abc import Callable

from fastnode.link.protocol import LinkProtocol

def watch_callbacks(
    protocol: LinkProtocol,
    limit: float,
    on_slow: Callable[[LinkProtocol, float, int], None],
    on_slow_handler: Callable[[str, float], None],
) -> None: ...
def names_of(protocol: LinkProtocol, seen: int) -> list[str]: ...
