"""Every error that fastnode raises, and the reasons that travel between peers.

An error says which side refused or failed (``side``), why (``message``), what the user
can do (``hint``), and which peer is concerned (``peer``). Two more attributes are for
programs: ``code`` is the kind of failure, and ``begun`` says whether a handler may have
begun. docs/errors.md lists both for every class.
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
    """The end of a link that refused or failed."""

    LOCAL = "local"  #: this node refused, or was at fault
    REMOTE = "remote"  #: the peer refused, or was at fault


class CloseReason(IntEnum):
    """The reason why a link ends, sent as a code in GOODBYE (docs/wire-format.md).

    A code below 16 ends a link in order. Every other code refuses or aborts the link.
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


#: Whether the handler of a message or call has begun. "no" is certain: a second attempt
#: cannot run the handler twice. "maybe" means that this node does not know.
Begun: TypeAlias = Literal["no", "maybe", "yes"]


class FastnodeError(Exception):
    """Base class of all errors of fastnode.

    Errors can be copied and pickled. A copy keeps all attributes and notes. It has no
    traceback and no ``__cause__``.

    Args:
        message: what happened, without the hint.
        hint: what the user can do. None uses the hint of the class.
        peer: the peer concerned: a `Peer`, its node name, or its address as text. None
            if the peer is not known.
        side: the side that refused or failed. None if only one side takes part.
        begun: whether a handler may have begun. None uses the value of the class.

    Attributes:
        message: what happened, without the hint.
        peer: same as the argument.
        side: same as the argument.
        code: the kind of failure. gRPC's names are used where the meaning is the same.
        begun: whether the handler of the message or call has begun: "no", "maybe" or
            "yes". After "no" it is safe to send the message again.
    """

    #: The hint of an error that has no hint of its own.
    usual_hint: ClassVar[str | None] = None
    # Copying and pickling make an error without its constructor. These class attributes
    # are its values until the real ones are set.
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
        """What the user can do, or None. An error that was made without a hint has the
        hint of its class."""
        return self._hint or self._advice()

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def summary(self) -> str:
        """The whole description of the error, without the hint."""
        return self.message

    def _advice(self) -> str | None:
        """Return the hint of an error that was made without one."""
        return self.usual_hint

    def __str__(self) -> str:
        summary, hint = f"{self.summary}", f"{self.hint or ''}"
        # An error that wraps another error may quote its hint already.
        if not hint or summary.endswith(hint) or f"({hint})" in summary:
            return summary
        return f"{summary} ({hint})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructor is not called, because subclasses have other arguments.
        state = dict(self.__dict__)
        if "__notes__" in state:
            state["__notes__"] = list(state["__notes__"])
        return _restore, (type(self), self.args), state


def _restore(cls: type[FastnodeError], args: tuple[object, ...]) -> FastnodeError:
    """Return a new error for `copy` and `pickle`, which set its attributes later."""
    error = cls.__new__(cls)
    # Some errors derive from `OSError`, whose `__new__` does not set `args`.
    error.args = args
    return error


class ConfigError(FastnodeError, ValueError):
    """An option or argument cannot work.

    The error is raised before fastnode opens a socket or a file for it.
    """

    code = "invalid_argument"
    begun: Begun = "no"


class SettingsFrozenError(ConfigError):
    """A trust setting was assigned after a node began to use its manager."""

    code = "failed_precondition"


class CertificateError(FastnodeError):
    """A certificate or pool cannot be used."""

    code = "invalid_argument"
    begun: Begun = "no"


class CertificateLoadError(CertificateError):
    """A certificate, key or pool cannot be loaded.

    It cannot be read, is not PEM, does not match, or is in the wrong order.
    """


class HandshakeError(FastnodeError, ConnectionError):
    """A connection did not become a link. Subclasses say why.

    Messages and calls are sent only after the link is up, so no handler has begun.
    """

    usual_hint = "the log of the other side says more"
    code = "unavailable"
    begun: Begun = "no"
    close_reason = CloseReason.REFUSED
    #: False if the connection ended and the peer gave no reason.
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
    """A certificate in the chain has expired or is not valid yet."""

    code = "unauthenticated"
    close_reason = CloseReason.CERTIFICATE_EXPIRED


class CertificateRevoked(HandshakeError):
    """A certificate in the chain is in a CRL of its issuer."""

    code = "unauthenticated"


class RevocationListExpired(HandshakeError):
    """A CRL is out of date, so no certificate of its issuer can be checked.

    The side that refuses is at fault, not its peer.
    """

    code = "failed_precondition"


class HostnameMismatch(HandshakeError):
    """No subject alternative name of the server covers the name it was dialed by."""

    code = "unauthenticated"
    close_reason = CloseReason.HOSTNAME_MISMATCH


class PeerNameMismatch(HandshakeError):
    """The peer used a node name that its certificate does not cover, or a name that
    differs from the name that was dialed."""

    code = "unauthenticated"
    close_reason = CloseReason.PEER_NAME_MISMATCH


class NotAuthorized(HandshakeError):
    """The `authorize` callable refused the peer."""

    code = "permission_denied"
    close_reason = CloseReason.NOT_AUTHORIZED


class HandshakeTimeout(HandshakeError, TimeoutError):
    """The TLS handshake and HELLO together took longer than `handshake_timeout`."""

    code = "deadline_exceeded"
    close_reason = CloseReason.HANDSHAKE_TIMEOUT


class TooManyConnections(HandshakeError):
    """An acceptor has no room for the connection.

    `max_links` or `max_links_per_peer` is reached, or too many connections wait for
    their handshakes.

    Attributes:
        retry_after: seconds after which the dialer should try again.
    """

    code = "resource_exhausted"
    begun: Begun = "no"
    usual_hint = "try again in 1 s; or raise the limit of the acceptor"
    close_reason = CloseReason.TOO_MANY_LINKS
    #: An acceptor completes about 500 handshakes in this time.
    retry_after: float = 1.0


class LinkClosed(FastnodeError, ConnectionError):
    """One of the two sides closed the link in order.

    `begun` is "no" if the message or call was not queued because the link had ended, or
    if the peer closed the link in order and had not begun the call.
    """

    usual_hint = "connect again to go on"
    code = "unavailable"


class LinkLost(LinkClosed):
    """The link ended without GOODBYE: it was reset or cut, or the peer was silent.

    Messages that were sent before may or may not have arrived.
    """

    usual_hint = "connect again to go on; the log of the other side may say why"


class ProtocolError(FastnodeError):
    """The peer violated the wire format, so its link has ended."""

    usual_hint = "the peer is faulty, hostile, or of an incompatible version"
    code = "internal"


class CallTimeout(FastnodeError, TimeoutError):
    """A call or another operation did not finish in time.

    The handler may have run, unless `begun` is "no".

    Attributes:
        timeout: the timeout that was given, in seconds, or None if it is not known.
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


#: The form of the code of a `CallError`. MAX_CODE_BYTES bounds its length.
CODE_OF_ERROR: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)


class CallError(FastnodeError):
    """An error that a handler raises to send its caller a code and details.

    The caller gets a `RemoteError` with the same code, message and details.

    Args:
        code: the kind of failure, for the caller's program: 1 to 64 characters of
            ``a-z``, ``0-9``, ``_``, ``.`` and ``-``, beginning with a letter. It may
            be one of gRPC's names.
        message: a text for people.
        details: bytes for the caller's program, at most 16 KiB.

    Raises:
        ConfigError: an argument has the wrong type or is too long.
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
    """The remote handler raised an exception.

    `begun` is "yes" for every code.

    Args:
        type_name: the class name of the remote exception, or "" if it is unknown.
        message: the text of the exception, never a traceback.
        code: the code of the `CallError` that the handler raised. Every other exception
            has the code "internal".
        details: the details of the `CallError`.

    Attributes:
        type_name: same as the argument.
        message: same as the argument.
        code: same as the argument.
        details: same as the argument.
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
        """The name or code of the remote exception, and the message."""
        what = self.type_name if self.code == "internal" else self.code
        said = f"the remote handler raised {what or 'an exception'}"
        return f"{said}: {self.message}" if self.message else said

    def _advice(self) -> str | None:
        if self.code == "internal":
            return self.usual_hint
        return "the handler chose this code; see what its service says about it"


class Busy(FastnodeError):
    """The receiver refused the call at once, because too many messages and calls wait.

    The handler has not begun.
    """

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

    `begun` is "yes" if the payload is a reply, because the handler has returned it.
    """

    usual_hint = "raise max_message_size on both nodes, or send it in parts"
    code = "resource_exhausted"
    begun: Begun = "no"


class SendQueueFull(FastnodeError):
    """The send queue of the link is full, so the message was not queued."""

    usual_hint = "await link.drain(), or send with Node.send, which waits for room"
    code = "resource_exhausted"
    begun: Begun = "no"


class NoRoute(FastnodeError, ConnectionError):
    """No address is known for a node, or no known address could be reached."""

    usual_hint = "is it running, and is the route or the resolver right?"
    code = "unavailable"
    begun: Begun = "no"


class NoInstance(NoRoute):
    """No instance of a service can take the call.

    The discovery names no instance, or every dial has failed.
    """

    usual_hint = (
        "does the discovery name the right targets, and do their certificates belong "
        "to the service? wait_for_ready=True waits for an instance"
    )


class OutOfResources(FastnodeError):
    """This process or machine has no file descriptors or no memory left."""

    usual_hint = (
        "raise the limit of open files (ulimit -n), or close what is not needed; then "
        "try again"
    )
    code = "resource_exhausted"
    begun: Begun = "no"


#: System errors which mean that no file descriptors or no memory are left.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error says that this machine has no resources left."""
    return isinstance(error, OutOfResources) or (
        isinstance(error, OSError) and error.errno in _EXHAUSTED
    )


def out_of_resources(what: str, error: OSError) -> OutOfResources:
    """Return the error for an operation that failed because a resource is exhausted."""
    text = os.strerror(error.errno or 0)
    return OutOfResources(f"{what}: {text}", side=Side.LOCAL)


class WorkerFailed(FastnodeError):
    """A worker process did not start. Its traceback, if there is one, is a note."""

    usual_hint = "the log and standard error of the worker say more"
    code = "unavailable"
    begun: Begun = "no"


class DuplicateLink(HandshakeError):
    """The peer keeps another link between the two nodes. Users never get this error."""

    code = "already_exists"
    close_reason = CloseReason.DUPLICATE_LINK


class DialedItself(PeerNameMismatch):
    """A node has dialed its own acceptor."""


class TooManyHandshakes(TooManyConnections):
    """An acceptor dropped the connection to make room for another one.

    Acceptors count and log the drop under this name. The dialer gets
    `TooManyConnections`.
    """


class DialGivenUp(HandshakeError):
    """This node dialed and does not want the link any more. Users never get it."""

    code = "cancelled"


def no_timeout(timeout: object) -> ConfigError:
    """Return the error for a timeout that is negative or not a number."""
    return ConfigError(
        f"timeout is {timeout!r}", hint="seconds, from 0; None waits without an end"
    )


def _short(value: object) -> str:
    """Return the repr of a bad argument, cut to one line."""
    return f"{value!r:.80}" if isinstance(value, str) else f"a {type(value).__name__}"


_Error = TypeVar("_Error", bound=FastnodeError)


def renewed(error: _Error, *, begun: Begun | None = None) -> _Error:
    """Return a copy of an error.

    Each place that raises the error needs a copy, because raising changes the
    traceback.

    Args:
        error: the error to copy.
        begun: a new value of `begun`, if the caller knows more than the error. None
            keeps the value of the error.
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
    """Return the error for a GOODBYE that came before the link was up."""
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
    with suppress(ValueError):  # a later version may have more codes
        error.close_reason = CloseReason(code)
    # A code below PROTOCOL_ERROR is no refusal: the peer stops, or only tested the
    # connection.
    error.told = refused
    return error
