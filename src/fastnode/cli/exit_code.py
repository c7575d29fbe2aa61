"""The exit codes of the command; its help and docs/command.md list them."""

from __future__ import annotations

from typing import Final

from fastnode.errors import (
    CallTimeout,
    CertificateError,
    ConfigError,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    NoRoute,
)

__all__ = ["EXIT_CODES", "EXIT_FAILED", "EXIT_INTERRUPTED", "exit_code"]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3
EXIT_UNREACHABLE: Final = 4
EXIT_INTERRUPTED: Final = 130

#: What each code means, for the help.
EXIT_CODES: Final = {
    0: "success",
    EXIT_FAILED: "the operation failed",
    EXIT_USAGE: "wrong usage, configuration or certificate files",
    EXIT_REFUSED: "one of the two nodes refused the other",
    EXIT_UNREACHABLE: "the node is not reachable, or did not answer in time",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
}


def exit_code(error: FastnodeError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, (NoRoute, HandshakeTimeout, CallTimeout)):
        return EXIT_UNREACHABLE
    if isinstance(error, HandshakeError):
        return EXIT_REFUSED
    if isinstance(error, (ConfigError, CertificateError)):
        return EXIT_USAGE
    return EXIT_FAILED
