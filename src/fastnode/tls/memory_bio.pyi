import ssl
from typing import final

from fastnode.tls.engine import TlsEngine

@final
class MemoryBioEngine(TlsEngine):
    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None: ...
