"""A handshake with an acceptor, step by step.

An examination makes one connection, as a node would make it. It sorts the errors that
OpenSSL found in the server's certificate into chain, dates, usage and name. After TLS,
a HELLO asks whether the acceptor admits this node. A GOODBYE then ends the handshake
before a link comes up.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastnode import limits
from fastnode.buffers.pool import BufferPool
from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.certs.expiry import day_and_distance
from fastnode.certs.name_constraints import violation_of
from fastnode.certs.sans import sans_of
from fastnode.errors import (
    CloseReason,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    HostnameMismatch,
    NoRoute,
    PeerNameMismatch,
    ProtocolError,
    Side,
    refusal_from_wire,
)
from fastnode.groups import described_group
from fastnode.openssl.constrained import constrained_by
from fastnode.openssl.handle import adopt
from fastnode.openssl.verification import expect_verdict, take_verdict, why_unavailable
from fastnode.tls.choice import tls_engine
from fastnode.tls.engine import TLS_ERRORS
from fastnode.tls.evidence import Evidence
from fastnode.tls.identity import (
    covers,
    describe_violation,
    forbidding,
    issuer_text,
    listed,
    readable,
    remedy_for,
    remedy_of,
    subject_text,
)
from fastnode.tls.refusal import local_refusal
from fastnode.wire.decoder import Decoder
from fastnode.wire.encoder import Encoder
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye
from fastnode.wire.hello import INSTANCE_BYTES, Hello
from fastnode.wire.kinds import kind_named

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

    from fastnode import CertAuthManager
    from fastnode.names import NodeName
    from fastnode.openssl.verdict import Verdict

__all__ = ["Examination", "Finding"]

#: Numbers of kinds of frames.
HELLO = kind_named("HELLO").number
GOODBYE = kind_named("GOODBYE").number
# X509_V_ERR_* (openssl/x509_vfy.h), by subject; every other code is about the chain.
DATES = (9, 10)
USAGE = (26,)
NAME = (62, 64)
#: The most names of authorities that are kept. With so many the list may have been cut.
MOST_AUTHORITIES = 64
#: Without a HELLO, silence for so long after the handshake counts as consent.
CONSENT_SECONDS = 1.0
RECEIVE_BYTES = 16 << 10
#: What the acceptor logs about this connection.
CHECKED = "it only checked, and hung up"


@dataclass(slots=True)
class Finding:
    """One step of an examination, and its result.

    Attributes:
        name: what was examined.
        ok: whether the result is good; None: the step is for information only.
        found: the result, in a sentence.
        details: further lines.
        hint: what to do about a bad result.
    """

    name: str
    ok: bool | None
    found: str
    details: list[str] = field(default_factory=list)
    hint: str | None = None


class Examination:
    """Examines one acceptor.

    Args:
        host, port: the address of the acceptor.
        manager: the certificate to show and whom to trust.
        server_name: the name to verify in the server's certificate.
        own: the node name to send in the HELLO; None: no HELLO is sent.
        timeout: seconds for each wait.

    Attributes:
        error: why there would be no link; None if there would be one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        manager: CertAuthManager,
        *,
        server_name: str,
        own: NodeName | None,
        timeout: float,
    ) -> None:
        self._host = host
        self._port = port
        self._manager = manager
        self._server_name = server_name
        self._own = own
        self._timeout = timeout
        self._verdict: Verdict | None = None
        self.error: FastnodeError | None = None

    def run(self) -> Iterator[Finding]:
        """Yield each step when it is done. The last one is the first that fails."""
        with ExitStack() as stack:
            for step in (
                self._connect(stack),
                self._handshake(stack),
                self._ask_for_consent(),
            ):
                try:
                    yield from step
                except FastnodeError as error:
                    self.error = error
                    return

    # --- TCP -------------------------------------------------------------------

    def _connect(self, stack: ExitStack) -> Iterator[Finding]:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            yield Finding("address", False, f"{self._host}: {why}")
            raise NoRoute(f"{self._host} is unknown") from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        yield Finding("address", True, f"{self._host} is {', '.join(addresses)}")
        began = time.perf_counter()
        try:
            self._socket = socket.create_connection(
                (self._host, self._port), timeout=self._timeout
            )
        except OSError as error:
            why = error.strerror or str(error)
            hint = "start the node, or check the firewall between the two"
            yield Finding("connection", False, why, hint=hint)
            raise NoRoute(f"{self._host}:{self._port}: {why}") from error
        stack.enter_context(self._socket)
        took = (time.perf_counter() - began) * 1e3
        yield Finding("connection", True, f"port {self._port}, in {took:.1f} ms")

    # --- TLS -------------------------------------------------------------------

    def _handshake(self, stack: ExitStack) -> Iterator[Finding]:
        context = self._manager.client_context()
        made: list[ssl.SSLSocket] = []

        def make() -> ssl.SSLSocket:
            made.append(
                context.wrap_socket(
                    self._socket,
                    server_hostname=self._server_name,
                    do_handshake_on_connect=False,
                )
            )
            return made[0]

        yield Finding("engine", None, str(tls_engine()))
        error: FastnodeError | None = None
        about_certificate = False
        expect_verdict()
        try:
            # Python's ssl would lose the socket of a connection that was reset.
            broken = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if broken:
                raise OSError(broken, os.strerror(broken))
            # It only says which group was negotiated; None where it cannot.
            self._handle = adopt(make, context, server_side=False)
            self._tls: Any = stack.enter_context(made[0] if made else make())
            self._tls.do_handshake()
        except TLS_ERRORS as failure:
            self._verdict = take_verdict()
            # Only `ssl.SSLCertVerificationError` has this attribute.
            about_certificate = hasattr(failure, "verify_code")
            error = self._explain(failure)
        except OSError as failure:
            take_verdict()
            error = self._cut_off(failure)
        else:
            self._verdict = take_verdict()
        if error is None:
            yield from self._agreed()
            error = self._forbidden_name()
        elif self._verdict is None and not about_certificate:
            # The handshake failed before the server showed its certificate, or OpenSSL
            # does not tell what it showed.
            yield Finding("TLS", False, error.message, hint=error.hint)
            raise error
        yield from self._server_certificate(error)
        yield from self._authorities()
        yield self._our_certificate()
        if error is not None:
            if error.side is Side.REMOTE:
                yield Finding("acceptance", False, error.message, hint=error.hint)
            raise error

    def _agreed(self) -> Iterator[Finding]:
        agreed = [self._tls.version(), self._tls.cipher()[0]]
        if self._handle is not None and self._handle.group is not None:
            agreed.append(described_group(self._handle.group))
        yield Finding("TLS", True, ", ".join(agreed))
        alpn = self._tls.selected_alpn_protocol()
        yield Finding(
            "protocol (ALPN)",
            alpn == ALPN_PROTOCOL,
            f"{alpn}" if alpn else "the server agreed on none",
            hint="this is not a fastnode acceptor: check host and port",
        )
        if alpn != ALPN_PROTOCOL:
            self.error = HandshakeError(
                f"the server does not speak {ALPN_PROTOCOL}", side=Side.LOCAL
            )

    def _presented(self) -> list[x509.Certificate]:
        if self._verdict is not None:
            shown: tuple[bytes | None, ...] = self._verdict.presented
        else:
            shown = ()
            with suppress(ValueError):  # the handshake is not complete
                shown = (self._tls.getpeercert(True) or None,)
        return [c for c in map(readable, shown) if c is not None]

    def _server_certificate(self, error: FastnodeError | None) -> Iterator[Finding]:
        """Yield a finding each for chain, dates, usage and name."""
        chain = self._presented()
        ours = error if error is not None and error.side is Side.LOCAL else None
        code = self._verdict.code if self._verdict is not None else 0
        if not chain and ours is not None:
            yield Finding("server's certificate", False, ours.message, hint=ours.hint)
            return
        about_chain = bool(code) and code not in (*DATES, *USAGE, *NAME)
        trusted = self._manager.root_cas
        evidence = Evidence(dialer=True, pool=trusted)
        yield Finding(
            "server's chain",
            not about_chain,
            f"trusted: {evidence.our_authorities}"
            if not about_chain
            else "not trusted"
            if ours is None
            else ours.message,
            details=[described(certificate) for certificate in chain],
            hint=ours.hint if ours is not None and about_chain else None,
        )
        now = datetime.now(UTC)
        wrong = [c for c in chain if not _current(c, now)]
        yield Finding(
            "server's dates",
            code not in DATES and not wrong,
            f"{_subject(wrong[0])} is valid {_period(wrong[0], now)}"
            if wrong
            else f"until {day_and_distance(chain[0].not_valid_after_utc, now)}",
            hint=ours.hint if ours is not None and code in DATES else None,
        )
        if code in USAGE and ours is not None:
            yield Finding("server's usage", False, ours.message, hint=ours.hint)
        names = listed(sans_of(chain[0])) or "none"
        if self._tls.context.check_hostname and (code == 0 or code in NAME):
            forbidden = isinstance(ours, HostnameMismatch) and code == 0
            yield Finding(
                "server's name",
                ours is None or not isinstance(ours, HostnameMismatch),
                ours.message
                if ours is not None and forbidden
                else f"{self._server_name!r} "
                f"{'is not' if code in NAME else 'is'} among its SANs: {names}",
                hint=ours.hint if ours is not None else None,
            )

    def _forbidden_name(self) -> FastnodeError | None:
        """The error if name constraints forbid the server name; TLS accepted it."""
        if not self._tls.context.check_hostname:
            return None
        authorities = constrained_by(self._tls, self._verdict)
        if authorities is None:
            return HostnameMismatch(
                "the chain of the server's certificate cannot be seen, so its name "
                "constraints cannot be checked",
                side=Side.LOCAL,
                hint="use an interpreter whose ssl module tells the verified chain",
            )
        violation = violation_of(authorities, self._server_name, by_uri=False)
        if violation is None:
            return None
        return HostnameMismatch(
            f"the server's certificate may not be used for {self._server_name!r}: "
            f"{describe_violation(violation)}",
            side=Side.LOCAL,
            hint=remedy_of(violation),
        )

    def _authorities(self) -> Iterator[Finding]:
        """Yield the authorities whose certificates the server says it accepts."""
        if why_unavailable() is not None:
            return
        names = self._verdict.authorities if self._verdict is not None else ()
        shown = self._manager.certificate
        if not names:
            text = "the server names none, or speaks TLS 1.2, where they are not seen"
            yield Finding("client authorities", None, text)
            return
        text, known = listed([name.text for name in names]), None
        hint = None
        if shown is not None and len(names) < MOST_AUTHORITIES:
            issuers = {c.issuer.public_bytes() for c in shown.chain}
            known = any(name.der in issuers for name in names)
            top = issuer_text(shown.chain[-1])
            hint = f"our certificate is signed by {top}"
        yield Finding("client authorities", known, text, hint=hint)

    def _our_certificate(self) -> Finding:
        shown = self._manager.certificate
        if shown is None:
            found = "none is shown; --cert and --key show one"
            return Finding("our certificate", None, found)
        now = datetime.now(UTC)
        return Finding(
            "our certificate",
            _current(shown.x509, now),
            described(shown.x509),
            hint=f"it is valid {_period(shown.x509, now)}",
        )

    # --- HELLO -------------------------------------------------------------------

    def _ask_for_consent(self) -> Iterator[Finding]:
        """Find out whether the server accepts our certificate. In TLS 1.3 it says so
        only after the handshake."""
        if self.error is not None:
            return
        try:
            if self._own is None:
                yield self._silence()
                return
            hello = self._introduced(self._own)
        except TLS_ERRORS as failure:
            error = self._explain(failure)
        except FastnodeError as failure:
            error = failure
        except OSError as failure:
            error = self._cut_off(failure)
        else:
            goodbye = encode_goodbye(CloseReason.CLOSED, CHECKED, "nothing is wrong")
            with suppress(OSError):
                self._tls.sendall(_frame(GOODBYE, goodbye))
            yield Finding("acceptance", True, f"the acceptor takes {self._own}")
            yield from self._peer_name(hello)
            return
        yield Finding("acceptance", False, error.message, hint=error.hint)
        raise error

    def _silence(self) -> Finding:
        self._tls.settimeout(min(CONSENT_SECONDS, self._timeout))
        try:
            self._tls.recv(1)
        except TimeoutError:
            return Finding(
                "acceptance",
                None,
                "the acceptor did not object; it is asked only with --as NAME@HOST",
            )
        raise HandshakeError(
            "the server closed the connection", side=Side.REMOTE, hint="see its log"
        )

    def _introduced(self, own: NodeName) -> Hello:
        """Send our HELLO, and return the server's.

        A server that refuses us may have closed the connection before it read the
        HELLO, so that sending fails. The alert that says why came before that.
        """
        failed: OSError | None = None
        try:
            self._tls.sendall(_frame(HELLO, self._hello(own).encode()))
        except OSError as error:
            failed = error
        try:
            return self._answer()
        except OSError as error:
            if failed is None or isinstance(error, FastnodeError):
                raise
            if "ALERT" in str(getattr(error, "reason", "")):
                raise
            raise failed from None

    def _answer(self) -> Hello:
        decoder = Decoder(BufferPool(), limits.MAX_HELLO_BYTES + 8, 0)
        try:
            while data := self._tls.recv(RECEIVE_BYTES):
                for kind, _number, _call, payload in decoder.feed(data):
                    if kind == HELLO and payload is not None:
                        return Hello.decode(payload)
                    if kind == GOODBYE and payload is not None:
                        raise refusal_from_wire(*decode_goodbye(payload))
                    raise ProtocolError(
                        f"a frame of kind {kind} came in place of a HELLO",
                        side=Side.REMOTE,
                    )
        finally:
            decoder.close()
        raise HandshakeError(
            "the server closed the connection", side=Side.REMOTE, hint="see its log"
        )

    def _peer_name(self, hello: Hello) -> Iterator[Finding]:
        chain = self._presented()
        authorities = constrained_by(self._tls, self._verdict) or ()
        covered = bool(chain) and covers(chain[0], hello.name, authorities)
        hint = f"issue it a certificate with the URI SAN {hello.name.uri}"
        if chain:
            hint = remedy_for(chain[0], hello.name)
        said = "covers" if covered else "does not cover"
        if chain and not covered:
            violation = forbidding(chain[0], hello.name, authorities)
            if violation is not None:
                said = f"may not cover: {describe_violation(violation)}"
                hint = remedy_of(violation)
        found = f"it is {hello.name}, which its certificate {said}"
        yield Finding("node name", covered, found, hint=hint)
        if not covered:
            raise PeerNameMismatch(
                f"the peer calls itself {hello.name}", side=Side.LOCAL, hint=hint
            )

    def _hello(self, own: NodeName) -> Hello:
        return Hello(
            name=own,
            instance=os.urandom(INSTANCE_BYTES),
            max_message=limits.DEFAULT_MAX_MESSAGE_BYTES,
            max_frame=limits.MAX_FRAME_BYTES,
            window=limits.WINDOW_BYTES,
            endpoints=limits.ENDPOINT_DICTIONARY_SIZE,
            keepalive_ms=int(limits.KEEPALIVE_INTERVAL_SECONDS * 1000),
        )

    # --- errors ------------------------------------------------------------------

    def _explain(self, error: Any) -> FastnodeError:
        return local_refusal(
            error,
            Evidence(
                dialer=True,
                peer=f"{self._host}:{self._port}",
                server_name=self._server_name,
                shown=self._manager.certificate,
                pool=self._manager.root_cas,
                verdict=self._verdict,
            ),
        )

    def _cut_off(self, error: OSError) -> FastnodeError:
        if isinstance(error, TimeoutError):
            return HandshakeTimeout(
                f"no answer within {self._timeout:g} s",
                side=Side.REMOTE,
                hint="it is overloaded, or it is not a TLS server",
            )
        return HandshakeError(
            f"the connection broke: {error.strerror or error}",
            side=Side.REMOTE,
            hint="see the log of the other side",
        )


def described(certificate: x509.Certificate) -> str:
    """Return subject, issuer and end of a certificate in one line."""
    end = day_and_distance(certificate.not_valid_after_utc)
    issuer = issuer_text(certificate)
    return f"{_subject(certificate)}, issued by {issuer}, until {end}"


def _current(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _period(certificate: x509.Certificate, now: datetime) -> str:
    return (
        f"from {day_and_distance(certificate.not_valid_before_utc, now)}, "
        f"to {day_and_distance(certificate.not_valid_after_utc, now)}"
    )


def _subject(certificate: x509.Certificate) -> str:
    return subject_text(certificate)


def _frame(kind: int, body: bytes) -> bytes:
    encoder = Encoder(BufferPool())
    try:
        encoder.add_frame(kind, 0, body)
        return encoder.take()
    finally:
        encoder.clear()
