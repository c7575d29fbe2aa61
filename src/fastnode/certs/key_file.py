"""Private keys on their way into OpenSSL, without a disk.

`ssl.SSLContext.load_cert_chain` takes file names only. On Linux they are those of
anonymous memory files; elsewhere those of two pipes (one for the chain and one for
the key: OpenSSL seeks in a file that holds both).
"""

from __future__ import annotations

import fcntl
import os
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from fastnode.errors import CertificateLoadError, is_exhaustion, out_of_resources

__all__ = ["load_cert_chain"]

#: What every system's pipes hold (POSIX promises 512; macOS grows to 64 KiB).
PIPE_BYTES = 16 * 1024


def load_cert_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Load a PEM chain and an unencrypted PEM key into a context.

    Raises:
        CertificateLoadError: OpenSSL refused them.
        OutOfResources: there are no descriptors left.
    """
    try:
        with ExitStack() as stack:
            context.load_cert_chain(
                stack.enter_context(named_file(chain)),
                stack.enter_context(named_file(key)),
            )
    except ssl.SSLError as error:
        reason = error.reason or "for no reason"
        hint = f"use a key that this OpenSSL ({ssl.OPENSSL_VERSION}) can use: EC P-256"
        if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
            hint = (
                "its key is too small, or its hash too weak, for the security level in "
                "force: use EC P-256, or RSA with 2048 bits, and SHA-256"
            )
        raise CertificateLoadError(
            f"OpenSSL refuses the certificate or its key: {reason}", hint=hint
        ) from None
    except OSError as error:
        if is_exhaustion(error):
            what = "the certificate and its key did not reach OpenSSL"
            raise out_of_resources(what, error) from None
        raise CertificateLoadError(
            f"the certificate and its key did not reach OpenSSL: {error.strerror}",
            hint="/proc (Linux) or /dev/fd must be mounted",
        ) from None


def named_file(data: bytes) -> AbstractContextManager[str]:
    """The path of something that holds this content, once, and is on no disk."""
    return (memory_file if hasattr(os, "memfd_create") else pipe_file)(data)


@contextmanager
def memory_file(data: bytes) -> Iterator[str]:
    """The path of an anonymous file in memory with this content."""
    try:
        descriptor = os.memfd_create("fastnode", os.MFD_CLOEXEC)
    except OSError as error:
        if is_exhaustion(error):
            raise out_of_resources("no file in memory for OpenSSL", error) from None
        raise
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


@contextmanager
def pipe_file(data: bytes) -> Iterator[str]:
    """The path of a pipe that holds this content and then ends."""
    if len(data) > PIPE_BYTES:
        raise CertificateLoadError(
            f"a chain of {len(data)} bytes does not fit a pipe of this system",
            hint=f"shorten it to {PIPE_BYTES} bytes: leave the root out",
        )
    reader, writer = os.pipe()
    try:
        try:
            fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
            written = _write_what_fits(writer, data)
        finally:
            os.close(writer)
        if written < len(data):
            raise CertificateLoadError(
                f"a pipe of this system took {written} of {len(data)} bytes",
                hint="shorten the chain: leave the root out",
            )
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)


def _write_what_fits(writer: int, data: bytes) -> int:
    written = 0
    with suppress(BlockingIOError):
        while written < len(data):
            written += os.write(writer, data[written:])
    return written
