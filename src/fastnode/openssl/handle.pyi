import ssl
from typing import final

@final
class Handle:
    @property
    def ssl(self) -> ssl.SSLObject: ...

def why_unreachable() -> str | None: ...
def wrap(
    context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None
) -> Handle | None: ...
