"""When which notice about the end of a certificate is due."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import CertAuthManager, Certificate, CertificateError, Side
from fastnode.certs.expiry import (
    Notice,
    Stage,
    due_notice,
    refuse_expired,
    stage_of,
    when_ended,
)
from helpers.pki import certificate, odd_certificate

DAY = timedelta(days=1)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "a@127.0.0.1"


def lasting(days: float) -> Certificate:
    return odd_certificate(
        NAME, not_before=BEGIN, not_after=BEGIN + timedelta(days=days)
    )


NINETY = lasting(90)


def notices(cert: Certificate, step: timedelta, until: datetime) -> list[Notice]:
    """All that is logged by somebody who looks every `step`."""
    last: Notice | None = None
    found = []
    now = BEGIN
    while now < until:
        due = due_notice(cert, now, last)
        if due is not None:
            found.append(due)
            last = due
        now += step
    return found


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (-1, Stage.GOOD),
        (0, Stage.GOOD),
        (59.9, Stage.GOOD),
        (60, Stage.AGEING),
        (82.9, Stage.AGEING),
        (83, Stage.ENDING),
        (89.9, Stage.ENDING),
        (90, Stage.EXPIRED),
        (500, Stage.EXPIRED),
    ],
)
def test_stages(day: float, expected: Stage) -> None:
    assert stage_of(BEGIN, BEGIN + 90 * DAY, BEGIN + day * DAY) is expected


@pytest.mark.parametrize("step", [timedelta(minutes=7), timedelta(hours=5)])
def test_once_at_two_thirds_then_daily_then_as_an_error(step: timedelta) -> None:
    found = notices(NINETY, step, BEGIN + 93 * DAY)
    stages = [notice.stage for notice in found]
    assert stages.count(Stage.AGEING) == 1
    assert stages.count(Stage.ENDING) in (6, 7)
    assert stages.count(Stage.EXPIRED) in (2, 3)
    assert stages == sorted(stages)
    for notice in found:
        error = notice.stage is Stage.EXPIRED
        assert notice.level == (logging.ERROR if error else logging.WARNING)
        for part in ("CN=a@127.0.0.1", f"{NINETY.serial_number:x}", "2026-04-01"):
            assert part in notice.text
        assert "renew it" in notice.text
    for one, two in pairwise(found):
        assert two.stage > one.stage or two.at - one.at >= DAY


def test_an_hour_is_no_reason_to_warn_from_the_first_minute() -> None:
    short = lasting(1 / 24)
    assert due_notice(short, BEGIN + timedelta(minutes=39), None) is None
    due = due_notice(short, BEGIN + timedelta(minutes=41), None)
    assert due is not None
    assert due.stage is Stage.ENDING
    assert "in 19 minutes" in due.text


def test_a_new_certificate_begins_anew() -> None:
    first = due_notice(NINETY, BEGIN + 85 * DAY, None)
    assert first is not None
    renewed = lasting(100)
    assert due_notice(lasting(365), BEGIN + 85 * DAY, first) is None
    again = due_notice(renewed, BEGIN + 85 * DAY, first)
    assert again is not None
    assert again.stage is Stage.AGEING
    # A clock that was set back says nothing twice.
    assert due_notice(NINETY, BEGIN + 61 * DAY, first) is None


@given(st.lists(st.floats(-10, 200, allow_nan=False), max_size=40))
def test_never_louder_than_daily(days: list[float]) -> None:
    last: Notice | None = None
    for day in sorted(days):
        now = BEGIN + timedelta(days=day)
        due = due_notice(NINETY, now, last)
        if due is None:
            continue
        assert stage_of(BEGIN, BEGIN + 90 * DAY, now) is due.stage is not Stage.GOOD
        assert last is None or due.stage > last.stage or now - last.at >= DAY
        last = due


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(days=3, hours=5), "expired on 2026-01-01, 3 days ago"),
        (timedelta(days=1), "expired on 2026-01-01, 1 day ago"),
        (timedelta(hours=23, minutes=59), "expired on 2026-01-01, 23 hours ago"),
        (timedelta(minutes=1), "expired on 2026-01-01, 1 minute ago"),
        (timedelta(0), "expired on 2026-01-01, 0 seconds ago"),
        (timedelta(days=-2), "expires on 2026-01-01, in 2 days"),
        (timedelta(seconds=-20), "expires on 2026-01-01, in 20 seconds"),
    ],
)
def test_how_it_is_said(after: timedelta, expected: str) -> None:
    assert when_ended(BEGIN, BEGIN + after) == expected


def test_refusal() -> None:
    refuse_expired("node a@b", None, BEGIN)
    refuse_expired("node a@b", NINETY, BEGIN + 89 * DAY)
    with pytest.raises(CertificateError) as caught:
        refuse_expired("node a@b", NINETY, BEGIN + 93 * DAY)
    message = caught.value.message
    for part in ("node a@b", "CN=a@127.0.0.1", "expired on 2026-04-01, 3 days ago"):
        assert part in message
    assert "renew" in (caught.value.hint or "")
    assert caught.value.side is Side.LOCAL


def test_expires_at() -> None:
    cert = certificate(NAME)
    assert CertAuthManager(cert).expires_at == cert.not_valid_after
    assert cert.not_valid_after.tzinfo is UTC
    assert CertAuthManager(None).expires_at is None
