"""Every error that fastnode raises, and the reasons that travel between peers.

An error answers these questions: which side refused or failed (``side``), why
(``message``), what to do about it (``hint``), and which peer is concerned (``peer``).
Two more answers are for programs: what kind of failure it is (``code``), and whether a
handler may have begun (``begun``). docs/errors.md lists both for every class.
"""

from __future__ import annotations

import copy
import errno
import os
import re
from contextlib import suppress
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from fastnode.limits import MAX_CODE_BYTES, MAX_DETAILS_BYTES

if TYPE_CHECKING:
    from fastnode.peer import Peer

__all__ = [
    "Begun",
    "Busy",
    "CallError",
    "CallTimeout",
    "CertificateError",
    "CertificateExpired",
    "CertificateLoadError",
    "CertificateRequired",
    "CertificateRevoked",
    "CloseReason",
    "ConfigError",
    "FastnodeError",
    "HandshakeError",
    "HandshakeTimeout",
    "HostnameMismatch",
    "LinkClosed",
    "LinkLost",
    "MessageTooLarge",
    "NoInstance",
    "NoRoute",
    "NoSuchEndpoint",
    "NotAuthorized",
    "OutOfResources",
    "PeerNameMismatch",
    "ProtocolError",
    "RemoteError",
    "RevocationListExpired",
    "SendQueueFull",
    "SettingsFrozenError",
    "Side",
    "TooManyConnections",
    "UnknownAuthority",
    "WorkerFailed",
    "is_exhaustion",
    "out_of_resources",
    "refusal_from_wire",
]


class Side(Enum):
    """Which end of a link an error speaks of."""

    LOCAL = "local"  #: this node refused, or was at fault
    REMOTE = "remote"  #: the peer refused, or was at fault


class CloseReason(IntEnum):
    """Why a link ends, as the code in a GOODBYE frame (docs/wire-format.md).

    Codes below 16 end a link in order; the others refuse or abort it.
    """

    SHUTDOWN = 0  #: the node stops
    CLOSED = 1  #: ``Link.close()``
    DUPLICATE_LINK = 2  #: another link between the two nodes stays
    REPLACED = 3  #: a newer link took the place of this one

    PROTOCOL_ERROR = 16
    UNSUPPORTED_VERSION = 17
    PEER_NAME_MISMATCH = 18
    NOT_AUTHORIZED = 19
    CERTIFICATE_REQUIRED = 20
    UNKNOWN_AUTHORITY = 21
    CERTIFICATE_EXPIRED = 22
    HOSTNAME_MISMATCH = 23
    HANDSHAKE_TIMEOUT = 24
    TOO_MANY_LINKS = 25
    KEEPALIVE_TIMEOUT = 26
    INTERNAL_ERROR = 27
    REFUSED = 28  #: refused for a reason that has no code of its own
    CLOSE_TIMEOUT = 29  #: the time for an orderly end was over


#: Whether the handler of a message or call has begun. "no" is certain: to send the
#: message once more cannot run its handler twice. "maybe" means that nobody knows.
Begun: TypeAlias = Literal["no", "maybe", "yes"]


class FastnodeError(Exception):
    """Base of all errors of fastnode. Errors can be copied and pickled.

    Copies and pickles keep all attributes and notes, but no traceback and no
    ``__cause__``.

    Args:
        message: what happened, without the hint.
        hint: what to do about it; None takes the usual hint of the class.
        peer: the peer concerned, where known: a `Peer`, or its node name, or its
            address as text.
        side: the side that refused or failed, or None where there is only one.
        begun: whether a handler may have begun; None takes the value of the class.

    Attributes:
        message: what happened, without the hint.
        peer: as the argument.
        side: as the argument.
        code: what kind of failure it is. The names are those of gRPC where the meaning
            is the same.
        begun: "no", "maybe" or "yes": whether the handler of the message or call has
            begun. After "no" it is safe to send the message once more.
    """

    #: What to do about errors of the class that give no hint of their own.
    usual_hint: ClassVar[str | None] = None
    # Defaults, so that an error without its constructor can be shown and copied too.
    message: str = ""
    peer: Peer | str | None = None
    side: Side | None = None
    code: str = "unknown"
    begun: Begun = "maybe"
    _hint: str | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        peer: Peer | str | None = None,
        side: Side | None = None,
        begun: Begun | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.peer = peer
        self.side = side
        if begun is not None:
            self.begun = begun

    @property
    def hint(self) -> str | None:
        """What to do about it, or None. An error without a hint of its own has the
        usual one of its class."""
        return self._hint or self._advice()

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def summary(self) -> str:
        """What happened as a full sentence, without the hint."""
        return self.message

    def _advice(self) -> str | None:
        """Return the hint for an error that has none of its own."""
        return self.usual_hint

    def __str__(self) -> str:
        summary, hint = f"{self.summary}", f"{self.hint or ''}"
        # The message of an error that wraps another one may quote the hint already.
        if not hint or summary.endswith(hint) or f"({hint})" in summary:
            return summary
        return f"{summary} ({hint})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the constructor: those of subclasses take other arguments.
        state = dict(self.__dict__)
        if "__notes__" in state:
            state["__notes__"] = list(state["__notes__"])
        return _restore, (type(self), self.args), state


def _restore(cls: type[FastnodeError], args: tuple[object, ...]) -> FastnodeError:
    """Make an error for `copy` and `pickle`, which then set its attributes."""
    error = cls.__new__(cls)
    # `OSError`, the base of some errors, leaves this to its constructor.
    error.args = args
    return error


class ConfigError(FastnodeError, ValueError):
    """An option or argument that cannot work; found before anything is opened."""

    code = "invalid_argument"
    begun: Begun = "no"


class SettingsFrozenError(ConfigError):
    """A trust setting was assigned after a node began to use its manager."""

    code = "failed_precondition"


class CertificateError(FastnodeError):
    """A certificate or pool that cannot be used."""

    code = "invalid_argument"
    begun: Begun = "no"


class CertificateLoadError(CertificateError):
    """Certificate, key or pool: unreadable, not PEM, not matching, out of order."""


class HandshakeError(FastnodeError, ConnectionError):
    """A connection that did not become a link; subclasses say why.

    No message and no call is sent before the link is up, so no handler has begun.
    """

    usual_hint = "the log of the other side says more"
    code = "unavailable"
    begun: Begun = "no"
    close_reason = CloseReason.REFUSED
    #: False where the connection just ended and nobody said why.
    told = True


class CertificateRequired(HandshakeError):
    """The dialer showed no certificate and the acceptor demands one."""

    code = "unauthenticated"
    close_reason = CloseReason.CERTIFICATE_REQUIRED


class UnknownAuthority(HandshakeError):
    """The certificate's chain does not end at a trusted authority."""

    code = "unauthenticated"
    close_reason = CloseReason.UNKNOWN_AUTHORITY


class CertificateExpired(HandshakeError):
    """A certificate in the chain is past its end, or before its beginning."""

    code = "unauthenticated"
    close_reason = CloseReason.CERTIFICATE_EXPIRED


class CertificateRevoked(HandshakeError):
    """A certificate in the chain is in a CRL of its issuer."""

    code = "unauthenticated"


class RevocationListExpired(HandshakeError):
    """A CRL is out of date, so nobody of its issuer can be judged.

    A fault of the side that refuses, not of the peer.
    """

    code = "failed_precondition"


class HostnameMismatch(HandshakeError):
    """No subject alternative name of the server covers the name it was dialed by."""

    code = "unauthenticated"
    close_reason = CloseReason.HOSTNAME_MISMATCH


class PeerNameMismatch(HandshakeError):
    """The peer used a node name that its certificate does not cover, or another
    name than the one that was dialed."""

    code = "unauthenticated"
    close_reason = CloseReason.PEER_NAME_MISMATCH


class NotAuthorized(HandshakeError):
    """The `authorize` callable refused the peer."""

    code = "permission_denied"
    close_reason = CloseReason.NOT_AUTHORIZED


class HandshakeTimeout(HandshakeError, TimeoutError):
    """TLS and HELLO together took longer than `handshake_timeout`."""

    code = "deadline_exceeded"
    close_reason = CloseReason.HANDSHAKE_TIMEOUT


class TooManyConnections(HandshakeError):
    """An acceptor has no room for the connection: `max_links`, `max_links_per_peer`,
    or too many connections that wait for their handshakes.

    Attributes:
        retry_after: seconds after which the dialer should try again.
    """

    code = "resource_exhausted"
    begun: Begun = "no"
    usual_hint = "try again in 1 s; or raise the limit of the acceptor"
    close_reason = CloseReason.TOO_MANY_LINKS
    #: An acceptor makes some 500 handshakes in that time.
    retry_after: float = 1.0


class LinkClosed(FastnodeError, ConnectionError):
    """The link was closed in order, by either side.

    `begun` is "no" if the message or call was not queued any more, or if the peer
    closed the link in order and had not begun the call.
    """

    usual_hint = "connect again to go on"
    code = "unavailable"


class LinkLost(LinkClosed):
    """The link ended without a goodbye: reset, truncated, timed out, killed.

    What had been sent may have arrived or not.
    """

    usual_hint = "connect again to go on; the log of the other side may say why"


class ProtocolError(FastnodeError):
    """The peer sent what the wire format does not allow; its link has ended."""

    usual_hint = "the peer is faulty, hostile, or of an incompatible version"
    code = "internal"


class CallTimeout(FastnodeError, TimeoutError):
    """What was asked for did not happen in time.

    The handler may have run, unless `begun` is "no".

    Attributes:
        timeout: the seconds that were given, or None where they are not known.
    """

    usual_hint = "allow more time"
    code = "deadline_exceeded"
    timeout: float | None = None

    def __init__(
        self,
        message: str,
        *,
        timeout: float | None = None,
        hint: str | None = None,
        peer: Peer | str | None = None,
        side: Side | None = None,
        begun: Begun | None = None,
    ) -> None:
        super().__init__(message, hint=hint, peer=peer, side=side, begun=begun)
        self.timeout = timeout

    def _advice(self) -> str | None:
        if self.begun == "no":
            return self.usual_hint
        return f"the handler may have run; {self.usual_hint}"


#: What the code of a `CallError` may be. MAX_CODE_BYTES bounds its length.
CODE_OF_ERROR: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)


class CallError(FastnodeError):
    """An error that a handler raises, to tell its caller more than a text.

    It arrives at the caller as a `RemoteError` with the same code, message and details.

    Args:
        code: what the caller's program can tell apart, 1 to 64 characters of ``a-z``,
            ``0-9``, ``_``, ``.`` and ``-``. The first one is a letter. It may be one
            of gRPC's names.
        message: for people.
        details: for the caller's program, at most 16 KiB.

    Raises:
        ConfigError: an argument cannot travel.
    """

    begun: Begun = "yes"
    details: bytes = b""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        details: bytes | bytearray | memoryview = b"",
    ) -> None:
        if not isinstance(code, str) or not CODE_OF_ERROR.fullmatch(code):
            raise ConfigError(
                f"the code of a CallError is {_short(code)}",
                hint="use the characters a-z, 0-9, '_', '.' and '-', and begin with a "
                "letter",
            )
        if len(code) > MAX_CODE_BYTES:
            raise ConfigError(
                f"the code of a CallError has {len(code)} characters, and at most "
                f"{MAX_CODE_BYTES} are allowed",
                hint="put what is longer into the message",
            )
        if not isinstance(message, str):
            raise ConfigError(
                f"the message of a CallError is {_short(message)}",
                hint="the message is a str; bytes go into details=",
            )
        if not isinstance(details, (bytes, bytearray, memoryview)):
            raise ConfigError(
                f"the details of a CallError are {_short(details)}",
                hint="details are bytes: encode them",
            )
        size = memoryview(details).nbytes
        if size > MAX_DETAILS_BYTES:
            raise ConfigError(
                f"the details of a CallError have {size} bytes, and at most "
                f"{MAX_DETAILS_BYTES} are allowed",
                hint="send less, or reply with the data in place of an error",
            )
        super().__init__(message)
        self.code = code
        self.details = bytes(details)

    @property
    def summary(self) -> str:
        """The code and the message."""
        return f"{self.code}: {self.message}" if self.message else self.code


class RemoteError(FastnodeError):
    """The remote handler raised. `begun` is always "yes", whatever the code says.

    Args:
        type_name: the name of the exception's class there, or "" where it is unknown.
        message: the text of the exception; never a traceback.
        code: of the `CallError` that the handler raised. Every other exception has the
            code "internal".
        details: of the `CallError`.

    Attributes:
        type_name: as the argument.
        message: as the argument.
        code: as the argument.
        details: as the argument.
    """

    usual_hint = "the node that runs the handler knows more"
    code = "internal"
    begun: Begun = "yes"
    type_name: str = ""
    details: bytes = b""

    def __init__(
        self,
        type_name: str,
        message: str = "",
        *,
        code: str = "internal",
        details: bytes = b"",
        peer: Peer | str | None = None,
        side: Side | None = Side.REMOTE,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, peer=peer, side=side)
        self.type_name = type_name
        self.code = code
        self.details = details

    @property
    def text(self) -> str:
        """The older name of `message`."""
        return self.message

    @property
    def summary(self) -> str:
        """What the handler raised, and the message."""
        what = self.type_name if self.code == "internal" else self.code
        said = f"the remote handler raised {what or 'an exception'}"
        return f"{said}: {self.message}" if self.message else said

    def _advice(self) -> str | None:
        if self.code == "internal":
            return self.usual_hint
        return "the handler chose this code; see what its service says about it"


class Busy(FastnodeError):
    """The receiver refused at once, because too much waits there. Nothing was begun."""

    usual_hint = "try again after a pause that grows each time, or add capacity there"
    code = "resource_exhausted"
    begun: Begun = "no"


class NoSuchEndpoint(FastnodeError):
    """The peer has no handler for the endpoint that was called."""

    usual_hint = "register a handler for it there, or check the name"
    code = "unimplemented"
    begun: Begun = "no"


class MessageTooLarge(FastnodeError):
    """A payload is larger than `max_message_size` of this node or of the peer.

    `begun` is "yes" if the payload is a reply: the handler has returned it.
    """

    usual_hint = "raise max_message_size on both nodes, or send it in parts"
    code = "resource_exhausted"
    begun: Begun = "no"


class SendQueueFull(FastnodeError):
    """The link's queue is at its hard limit; nothing was queued."""

    usual_hint = "await link.drain(), or send with Node.send, which waits for room"
    code = "resource_exhausted"
    begun: Begun = "no"


class NoRoute(FastnodeError, ConnectionError):
    """No address is known for a node, or none of those known could be reached."""

    usual_hint = "is it running, and is the route or the resolver right?"
    code = "unavailable"
    begun: Begun = "no"


class NoInstance(NoRoute):
    """No instance of a service can take the call: the discovery names none, or every
    dial has failed."""

    usual_hint = (
        "does the discovery name the right targets, and do their certificates belong "
        "to the service? wait_for_ready=True waits for an instance"
    )


class OutOfResources(FastnodeError):
    """This process, or this machine, has no descriptors or no memory left."""

    usual_hint = (
        "raise the limit of open files (ulimit -n), or close what is not needed; then "
        "try again"
    )
    code = "resource_exhausted"
    begun: Begun = "no"


#: Errors of the system that say that there are no descriptors or no memory left.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that this machine has no resources left."""
    return isinstance(error, OutOfResources) or (
        isinstance(error, OSError) and error.errno in _EXHAUSTED
    )


def out_of_resources(what: str, error: OSError) -> OutOfResources:
    """Return the error for something that failed by an exhausted resource."""
    text = os.strerror(error.errno or 0)
    return OutOfResources(f"{what}: {text}", side=Side.LOCAL)


class WorkerFailed(FastnodeError):
    """A worker process did not come up; its traceback, if there is one, is a note."""

    usual_hint = "the log and standard error of the worker say more"
    code = "unavailable"
    begun: Begun = "no"


class DuplicateLink(HandshakeError):
    """The peer keeps another link between the two nodes; never raised to users."""

    code = "already_exists"
    close_reason = CloseReason.DUPLICATE_LINK


class DialedItself(PeerNameMismatch):
    """A node has dialed its own acceptor."""


class TooManyHandshakes(TooManyConnections):
    """An acceptor dropped the connection to make room for another. Acceptors count and
    log it under this name; the dialer gets `TooManyConnections`."""


class DialGivenUp(HandshakeError):
    """We dialed and want the link no more; never raised to users."""

    code = "cancelled"


def no_timeout(timeout: object) -> ConfigError:
    """For a timeout below 0, or none at all."""
    return ConfigError(
        f"timeout is {timeout!r}", hint="seconds, from 0; None waits without an end"
    )


def _short(value: object) -> str:
    """Return the repr of a bad argument, cut to one line."""
    return f"{value!r:.80}" if isinstance(value, str) else f"a {type(value).__name__}"


_Error = TypeVar("_Error", bound=FastnodeError)


def renewed(error: _Error, *, begun: Begun | None = None) -> _Error:
    """Return a copy of an error, for each place that raises it.

    Copies do not share their tracebacks.

    Args:
        begun: whether a handler may have begun, where the place that raises the copy
            knows more than the error; None keeps what the error says.
    """
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    if begun is not None:
        again.begun = begun
    return again


_HANDSHAKE_ERRORS: dict[int, type[HandshakeError]] = {
    cls.close_reason: cls
    for cls in (
        CertificateRequired,
        UnknownAuthority,
        CertificateExpired,
        HostnameMismatch,
        PeerNameMismatch,
        NotAuthorized,
        HandshakeTimeout,
        TooManyConnections,
        DuplicateLink,
    )
}


def refusal_from_wire(
    code: int, text: str, hint: str = "", *, peer: Peer | str | None = None
) -> HandshakeError | ProtocolError:
    """The error to raise for a GOODBYE that refused us before the link was up."""
    advice = hint or HandshakeError.usual_hint
    if code == CloseReason.PROTOCOL_ERROR:
        return ProtocolError(
            f"the peer found our frames malformed: {text}",
            peer=peer,
            side=Side.REMOTE,
            hint=advice,
        )
    cls = _HANDSHAKE_ERRORS.get(code, HandshakeError)
    refused = code >= CloseReason.PROTOCOL_ERROR
    error = cls(
        f"the peer {'refused' if refused else 'took back'} the link: {text}",
        peer=peer,
        side=Side.REMOTE,
        hint=advice,
    )
    with suppress(ValueError):  # codes of later versions
        error.close_reason = CloseReason(code)
    # In order: it stops, or only looked.
    error.told = refused
    return error
