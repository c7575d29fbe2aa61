"""Warnings when a node starts: about options that work, but hardly as intended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastnode.node.port import warn_of_other_port
from fastnode.tls.choice import tls_engine
from fastnode.tls.identity import (
    covers,
    describe_violation,
    forbidding,
    listed,
    remedy_for,
    remedy_of,
)

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager
    from fastnode.names import NodeName
    from fastnode.node.acceptor import Acceptor
    from fastnode.options import NodeOptions

__all__ = ["warn_at_start"]

log = logging.getLogger("fastnode.node")


def warn_at_start(
    name: NodeName, options: NodeOptions, acceptors: Sequence[Acceptor]
) -> None:
    """Warn about the options of a node that has started, and log how TLS is done."""
    network = options.network
    for wanted, acceptor in zip(network.acceptors, acceptors, strict=True):
        if wanted.listener is None:
            warn_of_other_port(str(name), wanted.port, acceptor.address[1])
    if network.plaintext:
        return
    log.info("%s uses TLS of %s", name, tls_engine())
    accepting: list[CertManager] = []
    for wanted, acceptor in zip(network.acceptors, acceptors, strict=True):
        manager, insecure = acceptor.cert_manager, wanted.insecure_skip_verify
        if network.insecure_skip_verify if insecure is None else insecure:
            continue
        if manager is not None and manager not in accepting:
            accepting.append(manager)
    for manager in accepting:
        _warn_if_open(name, manager)
    if network.verify_peer_name:
        shown = [options.cert_manager, *(each.cert_manager for each in acceptors)]
        for each in dict.fromkeys(shown):
            _warn_if_not_covered(name, each)


def _warn_if_open(name: NodeName, manager: CertManager) -> None:
    if manager.client_cas is None or manager.verifies_clients:
        return
    log.warning(
        "%s lets anybody in: client_cas is set, but client_auth is %s, which verifies "
        "no dialer; set client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, or "
        "leave client_cas out",
        name,
        manager.client_auth.name,
    )


def _warn_if_not_covered(name: NodeName, manager: CertManager | None) -> None:
    shown = manager.certificate if manager is not None else None
    if shown is None or covers(shown.x509, name, shown.issuers):
        return
    violation = forbidding(shown.x509, name, shown.issuers)
    if violation is not None:
        log.warning(
            "%s: this node's certificate may not cover its name, so peers that verify "
            "names refuse it: %s; %s",
            name,
            describe_violation(violation),
            remedy_of(violation),
        )
        return
    log.warning(
        "%s: this node's certificate does not cover its name, so peers that verify "
        "names refuse it: it is valid for %s; %s",
        name,
        listed(shown.sans) or "no name at all",
        remedy_for(shown.x509, name),
    )
