from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, final

from fastnode.dispatch.reply import Reply
from fastnode.errors import FastnodeError
from fastnode.link.protocol import LinkProtocol
from fastnode.link.stats import LinkStats
from fastnode.options import Priority
from fastnode.peer import Peer

_Payload: TypeAlias = bytes | bytearray | memoryview

@final
class Link:
    @property
    def peer(self) -> Peer: ...
    @property
    def closed(self) -> bool: ...
    @property
    def leaving(self) -> bool: ...
    @property
    def error(self) -> FastnodeError | None: ...
    @property
    def dialed(self) -> bool: ...
    @property
    def stats(self) -> LinkStats: ...
    def send(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None: ...
    def call(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> Coroutine[Any, Any, bytes]: ...
    def request(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> Coroutine[Any, Any, Reply]: ...
    async def send_confirmed(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> None: ...
    def drain(self) -> Coroutine[Any, Any, None]: ...
    def ping(self) -> Coroutine[Any, Any, float]: ...
    async def close(self, timeout: float = ...) -> None: ...
    async def wait_closed(self) -> None: ...

async def room(link: Link, size: int) -> None: ...
def protocol_of(link: Link) -> LinkProtocol: ...
