"""Keeping an eye on the ends of all certificates that a node shows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastnode.certs.expiry import Notice, due_notice, refuse_expired

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager

__all__ = ["ExpiryCheck"]

log = logging.getLogger("fastnode.certs")


class ExpiryCheck:
    """Refuses what is over at the start, and says later what is about to be.

    Args:
        node: the node's name, for what is said.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._last: dict[CertManager, Notice] = {}

    def refuse(self, manager: CertManager | None, place: str = "") -> None:
        """Raise `CertificateError` if the manager's certificate has expired.

        Args:
            place: where in the node it is used; empty: the node's own manager.
        """
        if manager is not None:
            what = f"{place} of node {self._node}" if place else f"node {self._node}"
            refuse_expired(what, manager.certificate, datetime.now(UTC))

    def log_due(
        self, managers: Iterable[CertManager | None], now: datetime | None = None
    ) -> None:
        """Log what is due about the certificates of these managers.

        Args:
            now: aware; default: the present.
        """
        if now is None:
            now = datetime.now(UTC)
        used = {manager for manager in managers if manager is not None}
        self._last = {m: last for m, last in self._last.items() if m in used}
        for manager in used:
            certificate = manager.certificate
            if certificate is None:
                continue
            notice = due_notice(certificate, now, self._last.get(manager))
            if notice is not None:
                self._last[manager] = notice
                log.log(notice.level, "%s: %s", self._node, notice.text)
