from collections.abc import Collection, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias, final

from fastnode.discovery.protocol import Discovery
from fastnode.dispatch.reply import Reply
from fastnode.errors import LinkClosed
from fastnode.options import Priority
from fastnode.service.attempts import Ask
from fastnode.service.balancer import Candidate
from fastnode.service.members import Members, ServiceNode
from fastnode.service.retry import Retry
from fastnode.service.status import (
    BroadcastResult,
    InstanceStatus,
    Policy,
    ServiceStats,
)

_Payload: TypeAlias = bytes | bytearray | memoryview
_Key: TypeAlias = bytes | bytearray | memoryview | str

@final
class Service:
    def __init__(
        self,
        node: ServiceNode,
        name: str,
        discovery: Discovery,
        *,
        policy: Policy = "least_outstanding",
        max_instances: int = 32,
        retry: Retry | None = None,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def members(self) -> Members: ...
    @property
    def retry(self) -> Retry: ...
    @property
    def closed(self) -> bool: ...
    failures: int
    retries: int
    hedges: int
    budget_exhausted: int
    @property
    def instances(self) -> tuple[InstanceStatus, ...]: ...
    @property
    def stats(self) -> ServiceStats: ...
    def call(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        timeout: float | None = None,
        key: _Key | None = None,
        idempotent: bool = False,
        attempt_timeout: float | None = None,
        hedge_after: float | None = None,
        wait_for_ready: bool = False,
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
        key: _Key | None = None,
        idempotent: bool = False,
        attempt_timeout: float | None = None,
        hedge_after: float | None = None,
        wait_for_ready: bool = False,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> Coroutine[Any, Any, Reply]: ...
    async def send(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        confirm: bool = False,
        timeout: float | None = None,
        key: _Key | None = None,
        idempotent: bool = False,
        wait_for_ready: bool = False,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> None: ...
    async def broadcast(
        self,
        endpoint: str,
        payload: _Payload,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        metadata: Mapping[str, str] | None = None,
        inherit_deadline: bool = True,
    ) -> list[BroadcastResult]: ...
    async def wait_ready(self, n: int = 1, timeout: float | None = None) -> None: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def make_ask(
        self,
        endpoint: str,
        payload: _Payload,
        timeout: float | None,
        key: _Key | None,
        idempotent: bool,
        attempt_timeout: float | None,
        hedge_after: float | None,
        wait_for_ready: bool,
        lane: int,
        metadata: Mapping[str, str] | None,
        inherit: bool,
        confirm: bool,
        wants_reply: bool,
        began: float,
        /,
    ) -> Ask: ...
    # --- for fastnode.service.attempts
    async def attempt(
        self, candidate: Candidate, ask: Ask, timeout: float | None, number: int
    ) -> Any: ...
    def changed(self) -> None: ...
    def note(self, candidate: Candidate, error: BaseException) -> None: ...
    def pick_other(
        self, key: bytes | None, tried: Collection[Candidate]
    ) -> Candidate | None: ...
    def take_from_budget(self) -> bool: ...
    def closed_error(self) -> LinkClosed: ...
