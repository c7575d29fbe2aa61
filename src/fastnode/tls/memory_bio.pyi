import ssl
from typing import final

from fastnode.tls.ssl_object import SslObjectEngine

@final
class MemoryBioEngine(SslObjectEngine):
    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None: ...
