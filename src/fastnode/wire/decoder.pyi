from typing import Literal, TypeAlias, final, overload

from typing_extensions import Buffer

from fastnode.buffers.pool import BufferPool

#: kind, number, call, payload
Frame: TypeAlias = tuple[int, int, int, bytes | None]

@final
class Decoder:
    def __init__(
        self, pool: BufferPool, max_frame: int = ..., max_message: int = ...
    ) -> None: ...
    def extend(self, extensions: bool = True) -> None: ...
    @overload
    def feed(self, data: Buffer) -> list[Frame]: ...
    @overload
    def feed(
        self, data: Buffer, *, blocks: Literal[True]
    ) -> list[tuple[Frame, bytes | None]]: ...
    @overload
    def feed(
        self, data: Buffer, *, lanes: Literal[True]
    ) -> list[tuple[int, Frame]]: ...
    @property
    def unfinished(self) -> bool: ...
    def close(self) -> None: ...
