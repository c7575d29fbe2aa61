"""The numbers in docs/services.md are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastnode import limits
from fastnode.service import members, retry

PAGE = (Path(__file__).parents[3] / "docs/services.md").read_text()
WORDS = " ".join(PAGE.split())


@pytest.mark.parametrize(
    "said",
    [
        f"keeps links with {limits.MAX_INSTANCES} targets at most",
        {3: "after three dials otherwise"}[members.MANY_FAILURES],
        f"its link is closed {limits.FORGET_SECONDS:g} s later",
        f"lasts for {limits.BUSY_SECONDS * 1000:g} ms",
        f"gets no calls for {limits.BUSY_SECONDS * 1000:g} ms",
        f"{limits.EJECT_AFTER_FAILURES} calls in a row have failed",
        f"more than {limits.OUTLIER_DIFFERENCE:g} below the mean",
        f"The rates are compared every {limits.OUTLIER_INTERVAL_SECONDS:g} s",
        f"with at least {limits.OUTLIER_LEAST_CALLS} calls",
        f"The first ejection takes {limits.EJECT_FIRST_SECONDS:g} s",
        f"up to {limits.EJECT_MOST_SECONDS:g} s. At most half",
        f"to the whole within {limits.SLOW_START_SECONDS:g} s",
        f"up to {limits.RETRIES_NOT_BEGUN} times | the same",
        f"sent again, up to {limits.RETRIES_IDEMPOTENT} times",
        f"{limits.RETRY_BUDGET_SHARE:.0%}".replace("%", " %") + " of all calls",
        f"plus {limits.RETRY_BUDGET_PER_SECOND:g} in a second",
        f"does not answer within {limits.CHECK_SECONDS:g} s was restarted",
    ],
)
def test_numbers(said: str) -> None:
    assert said in WORDS


def test_codes_that_count_as_failures() -> None:
    begin = WORDS.index("errors of handlers with the codes")
    sentence = WORDS[begin : WORDS.index("count as failures", begin)]
    assert {*sentence.split("`")[1::2]} == retry.FAULT_CODES
