from collections.abc import Mapping
from typing import final

from fastnode.peer import Peer

@final
class Message:
    def __init__(
        self,
        payload: bytes,
        sender: Peer,
        endpoint: str,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def sender(self) -> Peer: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def time_left(self) -> float | None: ...
    @property
    def id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
