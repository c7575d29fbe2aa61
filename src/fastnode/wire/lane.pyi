from typing import final

from fastnode.buffers.pool import BufferPool

@final
class Lane:
    def __new__(cls, pool: BufferPool) -> Lane: ...
    @property
    def size(self) -> int: ...
