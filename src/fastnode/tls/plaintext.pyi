from typing import final

from fastnode.tls.engine import TlsEngine

@final
class PlaintextEngine(TlsEngine):
    def __init__(self) -> None: ...
