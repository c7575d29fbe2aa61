from collections.abc import Callable
from contextvars import Context
from typing import ParamSpec, TypeVar, final

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

@final
class HandlerContext:
    def __init__(self) -> None: ...
    def renew(self) -> None: ...
    def run(
        self,
        function: Callable[_Given, _Result],
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> _Result: ...
    def copy(self) -> Context: ...
