"""Retries: what may be sent to another instance, how often, and within which budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fastnode import limits
from fastnode.errors import (
    Busy,
    CallTimeout,
    ConfigError,
    LinkClosed,
    LinkLost,
    RemoteError,
    SendQueueFull,
    Side,
)
from fastnode.names import check_timeout

__all__ = ["Retry", "RetryBudget", "is_elsewhere", "is_fault", "may_have_begun"]

#: Seconds of the steady part that a budget can save up.
SAVED_SECONDS: Final = 10.0
#: Codes of a `RemoteError` that speak against the instance and not against the call.
FAULT_CODES: Final = frozenset({"internal", "unavailable", "data_loss", "unknown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How calls of a service are sent again.

    Attributes:
        not_begun: how often a call is sent to another instance if its handler certainly
            has not begun: the call never left, was refused with `Busy`, or was not
            answered before an orderly goodbye. 0: never.
        idempotent: how often a call with ``idempotent=True`` is sent again although its
            handler may have begun. 0: never.
        codes: codes of a `RemoteError` after which such a call is sent again too.
        budget: retries and hedges of idempotent calls, as a part of all calls.
        budget_per_second: retries and hedges that are allowed beyond that.
    """

    not_begun: int = limits.RETRIES_NOT_BEGUN
    idempotent: int = limits.RETRIES_IDEMPOTENT
    codes: Collection[str] = frozenset({"unavailable"})
    budget: float = limits.RETRY_BUDGET_SHARE
    budget_per_second: float = limits.RETRY_BUDGET_PER_SECOND

    def __post_init__(self) -> None:
        for name in ("not_begun", "idempotent"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(
                    f"Retry.{name} is {value!r}",
                    hint="it is a number of retries: 0 or more",
                )
        if isinstance(self.codes, str) or not all(
            isinstance(each, str) for each in self.codes
        ):
            raise ConfigError(
                f"Retry.codes is {self.codes!r}", hint='write {"unavailable"}'
            )
        object.__setattr__(self, "codes", frozenset(self.codes))
        for name in ("budget", "budget_per_second"):
            try:
                check_timeout(getattr(self, name))
            except ConfigError:
                raise ConfigError(
                    f"Retry.{name} is {getattr(self, name)!r}",
                    hint="it is a number: 0 or more",
                ) from None


class RetryBudget:
    """Bounds the retries and hedges of idempotent calls. It has no clock.

    It is a bucket of tokens. Each call brings a part of one, time brings some more, and
    each retry takes one.

    Args:
        share: what a call brings, in tokens.
        per_second: what a second brings, in tokens.
        now: seconds.
    """

    def __init__(self, share: float, per_second: float, now: float) -> None:
        self._share = share
        self._per_second = per_second
        self._most = SAVED_SECONDS * per_second + 100 * share
        self._tokens = self._per_second
        self._at = now
        self._calls = 0

    def take(self, calls: int, now: float) -> bool:
        """Take a token for a retry; False if there is none.

        Args:
            calls: how many calls the service has made so far, without retries.
            now: seconds.
        """
        self._tokens += (calls - self._calls) * self._share
        self._tokens += max(now - self._at, 0.0) * self._per_second
        self._tokens = min(self._tokens, self._most)
        self._calls, self._at = calls, now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def is_elsewhere(error: BaseException) -> bool:
    """Whether a call has certainly not begun, and another instance may take it.

    No other instance would do better with `NoSuchEndpoint`, `MessageTooLarge` or a bad
    argument. A deadline that was over before the handler began is over elsewhere too.
    """
    if getattr(error, "begun", "maybe") != "no":
        return False
    if isinstance(error, (Busy, SendQueueFull, LinkLost)):
        return True
    # Not a link that this node has closed: it stops, or the user wants no link.
    return isinstance(error, LinkClosed) and error.side is not Side.LOCAL


def may_have_begun(error: BaseException, codes: Collection[str]) -> bool:
    """Whether an idempotent call may be sent again after this error.

    Args:
        codes: of `Retry`.
    """
    if isinstance(error, RemoteError):
        return error.code in codes
    return isinstance(error, (LinkClosed, CallTimeout)) or is_elsewhere(error)


def is_fault(error: BaseException) -> bool:
    """Whether an error counts as a failure of the instance.

    An orderly end, a refusal because of load, and an error that the caller has caused
    do not.
    """
    if isinstance(error, RemoteError):
        return error.code in FAULT_CODES
    if isinstance(error, CallTimeout):
        return error.begun != "no"
    return isinstance(error, LinkLost)
