"""When a certificate ends, and what is to be said of it before and after.

Pure: the time is an argument, aware, and so are all times here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from fastnode.certs.dates import day_and_distance
from fastnode.errors import CertificateError, Side

if TYPE_CHECKING:
    from fastnode.certs.certificate import Certificate

__all__ = ["Notice", "Stage", "due_notice", "refuse_expired", "stage_of", "when_ended"]

#: From this long before the end, a warning a day.
ENDING: Final = timedelta(days=7)
DAY: Final = timedelta(days=1)


class Stage(IntEnum):
    """How far a certificate's life has gone."""

    GOOD = 0
    AGEING = 1  #: two thirds of it are over: time to have renewed it
    ENDING = 2  #: and the end is less than seven days away
    EXPIRED = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to log about a certificate.

    Attributes:
        level: of `logging`.
        text: what to log.
        stage: what it is about.
        fingerprint: of the certificate that it is about.
        at: when it was due.
    """

    level: int
    text: str
    stage: Stage
    fingerprint: str
    at: datetime


def stage_of(begin: datetime, end: datetime, now: datetime) -> Stage:
    """The stage of a certificate that is valid from `begin` to `end`.

    One that lives for less than 21 days is ending from two thirds of its life on, not
    from its first day: those that are renewed every hour or day are no news.
    """
    if now >= end:
        return Stage.EXPIRED
    if now < begin + (end - begin) * 2 / 3:
        return Stage.GOOD
    return Stage.ENDING if end - now <= ENDING else Stage.AGEING


def due_notice(
    certificate: Certificate, now: datetime, last: Notice | None
) -> Notice | None:
    """What is to be logged about a certificate now, if anything.

    Args:
        last: the last notice that was logged in the same place, about this
            certificate or one before it.

    Returns:
        A warning when two thirds of the life are over; one a day from seven days
        before the end; an error a day after it. A new certificate begins anew.
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
    """Raise `CertificateError` if a certificate is over.

    Args:
        what: whose it is, for the error: "node a@b".
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
    """Say: expired on 2026-01-02, 3 days ago; or: expires on 2026-01-02, in 3 days."""
    verb = "expired" if now >= end else "expires"
    return f"{verb} on {day_and_distance(end, now)}"


def _named(certificate: Certificate) -> str:
    subject = certificate.subject or "without subject"
    return f"{subject} (serial {certificate.serial_number:x})"
