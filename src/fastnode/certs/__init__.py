"""Certificates: what a node shows, whom it trusts, and how both change."""

from fastnode.certs.certificate import Certificate
from fastnode.certs.client_auth import ClientAuth
from fastnode.certs.manager import CertAuthManager, CertManager
from fastnode.certs.pool import CertPool
from fastnode.certs.spiffe import SpiffeId, SpiffeRule
from fastnode.certs.watch import CertificateWatch

__all__ = [
    "CertAuthManager",
    "CertManager",
    "CertPool",
    "Certificate",
    "CertificateWatch",
    "ClientAuth",
    "SpiffeId",
    "SpiffeRule",
]
