"""The exit codes of the command; its help lists them."""

from __future__ import annotations

from fastnode.errors import (
    CallTimeout,
    CertificateError,
    ConfigError,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    NoRoute,
)

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "exit_code"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130


def exit_code(error: FastnodeError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, (NoRoute, HandshakeTimeout, CallTimeout)):
        return EXIT_UNREACHABLE
    if isinstance(error, HandshakeError):
        return EXIT_REFUSED
    if isinstance(error, (ConfigError, CertificateError)):
        return EXIT_USAGE
    return EXIT_FAILED
