from collections.abc import Iterable
from typing import Final, final

from fastnode.discovery.target import Target
from fastnode.link.link import Link
from fastnode.peer import Address

CHOOSERS: Final[dict[str, int]]

@final
class Candidate:
    def __init__(self, name: str, instance: str, weight: float = 1.0) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def key(self) -> int: ...
    weight: float
    busy_until: float
    outstanding: int
    calls: int
    failures: int
    consecutive: int
    link: Link | None
    address: Address | None
    last_error: BaseException | None
    def warm_up(self, now: float) -> None: ...

@final
class Balancer:
    def __init__(self, policy: str, seed: int) -> None: ...
    @property
    def policy(self) -> str: ...
    def pick(
        self, candidates: list[Candidate], now: float, key: bytes | None = None
    ) -> Candidate | None: ...

def number_of(data: bytes) -> int: ...
def in_order(targets: Iterable[Target], seed: bytes) -> list[Target]: ...
