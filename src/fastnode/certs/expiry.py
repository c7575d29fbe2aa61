"""The end of a certificate: its stages, what is logged about it, how times are written.

All times are aware. Functions that judge take the current time as an argument.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from fastnode.errors import CertificateError, Side

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate

__all__ = [
    "Notice",
    "Stage",
    "day_and_distance",
    "due_notice",
    "refuse_expired",
    "stage_of",
    "when_ended",
]

#: From this long before the end on, a warning is logged each day.
ENDING: Final = timedelta(days=7)
DAY: Final = timedelta(days=1)


class Stage(IntEnum):
    """How much of a certificate's lifetime is over."""

    GOOD = 0
    AGEING = 1  #: two thirds are over: it should have been renewed
    ENDING = 2  #: two thirds are over, and the end is less than seven days away
    EXPIRED = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to log about a certificate.

    Attributes:
        level: a level of `logging`.
        text: what to log.
        stage: the stage that the certificate has reached.
        fingerprint: the fingerprint of the certificate.
        at: when the notice was due.
    """

    level: int
    text: str
    stage: Stage
    fingerprint: str
    at: datetime


def stage_of(begin: datetime, end: datetime, now: datetime) -> Stage:
    """Return the stage of a certificate that is valid from `begin` to `end`.

    A certificate with a lifetime below 21 days is in stage ENDING when two thirds of it
    are over, not from its first day on. Certificates that are renewed every hour or day
    cause no warnings.
    """
    if now >= end:
        return Stage.EXPIRED
    if now < begin + (end - begin) * 2 / 3:
        return Stage.GOOD
    return Stage.ENDING if end - now <= ENDING else Stage.AGEING


def due_notice(
    certificate: Certificate, now: datetime, last: Notice | None
) -> Notice | None:
    """Return what is to be logged about a certificate now, or None.

    Args:
        last: the last notice that was logged in the same place, about this
            certificate or an earlier one.

    Returns:
        One warning when two thirds of the lifetime are over. A warning each day from
        seven days before the end on. An error each day after the end. A new
        certificate starts again.
    """
    stage = stage_of(certificate.not_valid_before, certificate.not_valid_after, now)
    if stage is Stage.GOOD:
        return None
    fingerprint = certificate.fingerprint
    if last is not None and last.fingerprint == fingerprint and last.stage >= stage:
        daily = stage >= Stage.ENDING and now - last.at >= DAY
        if not daily:
            return None
    said = (
        f"the certificate {_named(certificate)} "
        f"{when_ended(certificate.not_valid_after, now)}"
    )
    if stage is Stage.EXPIRED:
        said += ": peers refuse it"
    said += "; renew it and give the new one to update(), or let watch() follow it"
    level = logging.ERROR if stage is Stage.EXPIRED else logging.WARNING
    return Notice(level, said, stage, fingerprint, now)


def refuse_expired(what: str, certificate: Certificate | None, now: datetime) -> None:
    """Raise `CertificateError` if a certificate has expired.

    Args:
        what: who uses the certificate, for the error: "node a@b".
    """
    if certificate is None or now < certificate.not_valid_after:
        return
    raise CertificateError(
        f"{what} cannot use the certificate {_named(certificate)}: it "
        f"{when_ended(certificate.not_valid_after, now)}",
        hint="renew it: every peer that verifies would refuse it",
        side=Side.LOCAL,
    )


def when_ended(end: datetime, now: datetime) -> str:
    """Return "expired on 2026-01-02, 3 days ago" or "expires on 2026-01-02, in 3
    days"."""
    verb = "expired" if now >= end else "expires"
    return f"{verb} on {day_and_distance(end, now)}"


def day_and_distance(moment: datetime, now: datetime | None = None) -> str:
    """Return a date and its distance: ``2026-01-02, 3 days ago``, or ``..., in 5
    hours``.

    Args:
        moment: an aware time.
        now: an aware time; None means the current time.
    """
    now = now or datetime.now(UTC)
    distance = abs(moment - now)
    for unit, size in (
        ("day", timedelta(days=1)),
        ("hour", timedelta(hours=1)),
        ("minute", timedelta(minutes=1)),
        ("second", timedelta(seconds=1)),
    ):
        count = distance // size
        if count or unit == "second":
            break
    text = f"{count} {unit}{'' if count == 1 else 's'}"
    when = f"{text} ago" if moment <= now else f"in {text}"
    return f"{moment.astimezone(UTC):%Y-%m-%d}, {when}"


def _named(certificate: Certificate) -> str:
    subject = certificate.subject or "without subject"
    return f"{subject} (serial {certificate.serial_number:x})"
