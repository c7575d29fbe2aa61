"""Warnings when a node starts: about options that work, but hardly as intended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastnode.limits import MAX_CLIENT_CHAIN_BYTES, MAX_SERVER_CHAIN_BYTES
from fastnode.loggers import fields
from fastnode.node.port import warn_of_other_port
from fastnode.tls.choice import tls_engine
from fastnode.tls.identity import (
    covers,
    describe_violation,
    forbidding,
    names_text,
    remedy_for,
    remedy_of,
)

if TYPE_CHECKING:
    from fastnode.certs.manager import CertManager
    from fastnode.names import NodeName
    from fastnode.node.acceptor import Acceptor
    from fastnode.options import NetworkOptions, NodeOptions

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
    log.info(
        "%s uses TLS of %s",
        name,
        tls_engine(),
        extra=fields("tls_engine", node=name),
    )
    for manager in _judging(network, acceptors):
        _warn_if_open(name, manager)
    shown = [options.cert_manager, *(each.cert_manager for each in acceptors)]
    for each in dict.fromkeys(shown):
        _warn_if_too_large(name, each)
        if network.verify_peer_name:
            _warn_if_not_covered(name, each)


def _judging(
    network: NetworkOptions, acceptors: Sequence[Acceptor]
) -> dict[CertManager, None]:
    """The managers of the acceptors that do not skip verification, each once."""
    found: dict[CertManager, None] = {}
    for wanted, acceptor in zip(network.acceptors, acceptors, strict=True):
        manager, insecure = acceptor.cert_manager, wanted.insecure_skip_verify
        if network.insecure_skip_verify if insecure is None else insecure:
            continue
        if manager is not None:
            found[manager] = None
    return found


def _warn_if_open(name: NodeName, manager: CertManager) -> None:
    if manager.client_cas is None or manager.verifies_clients:
        return
    log.warning(
        "%s lets anybody in: client_cas is set, but client_auth is %s, which verifies "
        "no dialer; set client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT, or "
        "leave client_cas out",
        name,
        manager.client_auth.name,
        extra=fields("clients_not_verified", node=name),
    )


def _warn_if_too_large(name: NodeName, manager: CertManager | None) -> None:
    shown = manager.certificate if manager is not None else None
    most = min(MAX_CLIENT_CHAIN_BYTES, MAX_SERVER_CHAIN_BYTES)
    if shown is not None and shown.size > most:
        log.warning(
            "%s: this node's certificate and its intermediates have %d bytes, and "
            "peers read %d at most, so they refuse it; use fewer names, or fewer "
            "intermediates",
            name,
            shown.size,
            most,
            extra=fields("certificate_too_large", node=name, certificate=shown),
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
            extra=fields("name_not_covered", node=name, certificate=shown),
        )
        return
    log.warning(
        "%s: this node's certificate does not cover its name, so peers that verify "
        "names refuse it: it is valid for %s; %s",
        name,
        names_text(shown.x509) or "no name at all",
        remedy_for(shown.x509, name),
        extra=fields("name_not_covered", node=name, certificate=shown),
    )
