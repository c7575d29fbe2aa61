from typing import final

from fastnode.openssl.handle import Handle
from fastnode.tls.ssl_object import SslObjectEngine

@final
class DirectEngine(SslObjectEngine):
    def __init__(
        self, handle: Handle, *, server_side: bool, records_of_key: int = ...
    ) -> None: ...
