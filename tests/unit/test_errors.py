"""The exception tree is the contract's. All errors can be shown, copied and pickled."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any, get_args

import pytest

import fastnode
from fastnode import (
    Busy,
    CallError,
    CallTimeout,
    CloseReason,
    ConfigError,
    FastnodeError,
    LinkClosed,
    LinkLost,
    Peer,
    RemoteError,
    Side,
    limits,
)
from fastnode.errors import Begun, DuplicateLink, refusal_from_wire, renewed
from helpers.executor import raised
from helpers.pki import certificate

PARENTS = {
    "ConfigError": (FastnodeError, ValueError),
    "SettingsFrozenError": (fastnode.ConfigError,),
    "CertificateError": (FastnodeError,),
    "CertificateLoadError": (fastnode.CertificateError,),
    "HandshakeError": (FastnodeError, ConnectionError),
    "CertificateRequired": (fastnode.HandshakeError,),
    "UnknownAuthority": (fastnode.HandshakeError,),
    "CertificateExpired": (fastnode.HandshakeError,),
    "HostnameMismatch": (fastnode.HandshakeError,),
    "PeerNameMismatch": (fastnode.HandshakeError,),
    "NotAuthorized": (fastnode.HandshakeError,),
    "HandshakeTimeout": (fastnode.HandshakeError,),
    "TooManyConnections": (fastnode.HandshakeError,),
    "LinkClosed": (FastnodeError, ConnectionError),
    "LinkLost": (fastnode.LinkClosed,),
    "ProtocolError": (FastnodeError,),
    "CallTimeout": (FastnodeError, TimeoutError),
    "RemoteError": (FastnodeError,),
    "CallError": (FastnodeError,),
    "Busy": (FastnodeError,),
    "NoSuchEndpoint": (FastnodeError,),
    "MessageTooLarge": (FastnodeError,),
    "SendQueueFull": (FastnodeError,),
    "NoRoute": (FastnodeError,),
}


@pytest.mark.parametrize("name", PARENTS)
def test_tree(name: str) -> None:
    for parent in PARENTS[name]:
        assert issubclass(getattr(fastnode, name), parent)


def test_an_error_says_cause_and_remedy() -> None:
    error = FastnodeError("cause", hint="remedy", peer="a@b", side=Side.REMOTE)
    assert str(error) == "cause (remedy)"
    assert (error.message, error.hint, error.peer) == ("cause", "remedy", "a@b")
    again = renewed(error)
    assert again is not error
    assert (str(again), again.side) == (str(error), Side.REMOTE)


@pytest.mark.parametrize("code", CloseReason)
def test_every_code_becomes_an_error_of_the_other_side(code: CloseReason) -> None:
    error = refusal_from_wire(code, "because", peer="a@b")
    assert "because" in str(error)
    assert error.side is Side.REMOTE


def test_codes_map_to_their_classes() -> None:
    assert type(refusal_from_wire(21, "")) is fastnode.UnknownAuthority
    assert type(refusal_from_wire(19, "")) is fastnode.NotAuthorized
    assert type(refusal_from_wire(16, "")) is fastnode.ProtocolError
    assert type(refusal_from_wire(2, "")) is DuplicateLink
    assert type(refusal_from_wire(60000, "")) is fastnode.HandshakeError


# --- every class ---------------------------------------------------------------------

#: https://grpc.github.io/grpc/core/md_doc_statuscodes.html, without OK.
GRPC_CODES = {
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
}


def all_errors() -> list[type[FastnodeError]]:
    """Every error class of the package: a new one cannot be forgotten here."""
    for module in pkgutil.walk_packages(fastnode.__path__, "fastnode."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    found = [FastnodeError]
    for cls in found:  # grows
        new = [each for each in cls.__subclasses__() if each not in found]
        found += [each for each in new if each.__module__.startswith("fastnode.")]
    return found


ERRORS = all_errors()
every_error = pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)


def a_peer() -> Peer:
    shown = certificate("orders@127.0.0.1").x509
    return Peer("orders@127.0.0.1", ("127.0.0.1", 15000), shown, verified=True)


def sample(cls: type[Any], **details: Any) -> Any:
    """An error of a class that has all that it can have."""
    if cls is CallError:
        error = cls("out_of_stock", "only 3 left", details=b"\0\xff")
        error.hint, error.peer, error.side = "do this", a_peer(), Side.REMOTE
    elif cls is RemoteError:
        error = cls("KeyError", "why", code="c", details=b"\0\xff", peer=a_peer())
        error.hint = "do this"
    else:
        details = {"begun": "maybe", "side": Side.LOCAL, "hint": "do this"} | details
        error = cls("what happened", peer=a_peer(), **details)
    error.extra = ("set", "later")
    error.add_note("a note")
    return error


def everything(error: FastnodeError) -> tuple[object, ...]:
    """What copies and pickles have to keep."""
    names = "message hint side peer code begun summary details timeout type_name extra"
    kept = [getattr(error, name, None) for name in names.split()]
    told = [getattr(error, name, None) for name in ("close_reason", "told")]
    notes = getattr(error, "__notes__", None)
    return type(error), error.args, str(error), repr(error), kept, told, notes


def test_classes_are_found() -> None:
    names = {cls.__name__ for cls in ERRORS}
    assert {"CannotStart", "DuplicateLink", "SettingsFrozenError", "Busy"} <= names
    assert len(names) == len(ERRORS)


@every_error
def test_code_and_begun(cls: type[FastnodeError]) -> None:
    assert cls.code in GRPC_CODES
    assert cls.begun in get_args(Begun)
    assert "code" in vars(cls) or "code" in vars(cls.__bases__[0])
    if cls not in (CallError, RemoteError):
        assert cls("m").begun == cls.begun
        for begun in get_args(Begun):
            assert cls("m", begun=begun).begun == begun


@every_error
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_keep_everything(cls: type[FastnodeError], protocol: int) -> None:
    error = sample(cls)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert everything(again) == everything(error)
    assert again.peer.certificate == error.peer.certificate


@every_error
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, renewed])
def test_copies_keep_everything(cls: type[FastnodeError], how: Any) -> None:
    error = sample(cls)
    again = how(error)
    assert again is not error
    assert everything(again) == everything(error)
    again.add_note("of the copy")
    assert error.__notes__ == ["a note"]


def test_errors_come_back_from_a_process_pool() -> None:
    # Not by fork: tests have threads, which newer Pythons warn about.
    context = multiprocessing.get_context("spawn")
    errors = [sample(cls) for cls in ERRORS]
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        waiting = [pool.submit(raised, error) for error in errors]
        for error, future in zip(errors, waiting, strict=True):
            caught = future.exception(timeout=45)
            assert isinstance(caught, FastnodeError)
            error.add_note("raised in another process")
            assert everything(caught) == everything(error)


@every_error
def test_text_never_fails(cls: Any) -> None:
    bare = cls.__new__(cls)
    values: tuple[Any, ...] = ("", "\ud800", None, 5, b"x")
    for error in [bare, *([] if cls is CallError else map(cls, values))]:
        assert isinstance(str(error), str)
        assert cls.__name__ in repr(error)
        for value in values:
            error.hint = error.message = value
            assert isinstance(str(error), str)
            assert isinstance(str(pickle.loads(pickle.dumps(error))), str)


class OutOfStock(CallError):
    """An error of a user, whose constructor takes other arguments."""

    def __init__(self, left: int) -> None:
        super().__init__("out_of_stock", f"only {left} left", details=bytes([left]))
        self.left = left


def test_errors_of_users_can_be_copied() -> None:
    again = copy.deepcopy(OutOfStock(3))
    assert type(again) is OutOfStock
    assert (again.left, again.code, again.details) == (3, "out_of_stock", b"\3")
    assert str(again) == "out_of_stock: only 3 left"


# --- peers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peer",
    [a_peer(), Peer("a@b", ("::1", 1), instance="ab" * 16, group="X25519")],
    ids=["with a certificate", "without"],
)
def test_peers_can_be_copied_and_pickled(peer: Peer) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(peer, protocol))
        assert again == peer
        assert hash(again) == hash(peer)
    assert copy.copy(peer) == copy.deepcopy(peer) == peer


# --- hints ---------------------------------------------------------------------------


def test_a_hint_appears_once() -> None:
    error = LinkClosed("the link was closed", hint="connect again")
    wrapped = LinkClosed(str(error), hint=error.hint)
    ends = LinkClosed("it was closed: connect again", hint="connect again")
    twice = renewed(renewed(wrapped))
    for each in (error, wrapped, twice, ends):
        assert str(each).count("connect again") == 1
    inner = RemoteError("KeyError", "'x'")
    outer = RemoteError("RemoteError", str(RemoteError("RemoteError", str(inner))))
    assert str(outer).count("knows more") == 1
    # A word of the message is no hint.
    assert str(FastnodeError("no answer", hint="no")) == "no answer (no)"


def test_what_a_place_knows_better() -> None:
    error = LinkLost("lost")
    error.__cause__ = cause = OSError()
    again = renewed(error, begun="no")
    assert (error.begun, again.begun) == ("maybe", "no")
    assert again.__cause__ is cause


# --- single classes ------------------------------------------------------------------

SENTENCE = "the handler may have run"


@pytest.mark.parametrize(("begun", "said"), [("no", 0), ("maybe", 1), ("yes", 1)])
def test_a_timeout_says_whether_the_handler_may_have_run(
    begun: Begun, said: int
) -> None:
    error = CallTimeout("no reply", timeout=2.5, begun=begun)
    assert str(error).count(SENTENCE) == said
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.timeout == 2.5
    assert "allow more time" in str(error)
    assert SENTENCE not in str(renewed(error, begun="no"))
    assert SENTENCE in str(renewed(error, begun="maybe"))


def test_a_call_error() -> None:
    error = CallError("out_of_stock", "only 3 left", details=b"x")
    assert (error.code, error.message, error.details) == (
        "out_of_stock",
        "only 3 left",
        b"x",
    )
    assert str(error) == "out_of_stock: only 3 left"
    assert str(CallError("a")) == "a"
    assert error.begun == "yes"
    assert CallError("unavailable").begun == "yes"


@pytest.mark.parametrize("code", ["a", "a" * 64, "not_found", "shop.stock-2"])
def test_good_codes(code: str) -> None:
    assert CallError(code).code == code


@pytest.mark.parametrize(
    "code",
    ["", "a" * 65, "A", "1a", "_a", "a b", "a\n", "\u00e4", "a\u0661", None, 5, b"a"],
)
def test_bad_codes(code: Any) -> None:
    with pytest.raises(ConfigError, match="the code of a CallError") as caught:
        CallError(code)
    assert caught.value.code == "invalid_argument"
    assert caught.value.hint
    assert len(str(caught.value)) < 300


def test_details_are_bounded() -> None:
    most = limits.MAX_DETAILS_BYTES
    assert CallError("a", details=bytes(most)).details == bytes(most)
    details: Any
    for details in (bytes(most + 1), memoryview(bytes(4 * most)).cast("I"), "text", 7):
        with pytest.raises(ConfigError, match="details of a CallError") as caught:
            CallError("a", details=details)
        assert caught.value.hint


def test_details_are_a_copy() -> None:
    details = bytearray(b"x")
    error = CallError("a", details=details)
    details[0] = 0
    assert error.details == b"x"
    assert type(error.details) is bytes


def test_a_message_is_text() -> None:
    message: Any
    for message in (None, b"x", 5):
        with pytest.raises(ConfigError, match="message of a CallError"):
            CallError("a", message)


@pytest.mark.parametrize("code", ["internal", "unavailable", "out_of_stock"])
def test_a_remote_error_has_begun_whatever_its_code_says(code: str) -> None:
    error = RemoteError("KeyError", "why", code=code, details=b"x")
    assert (error.code, error.message, error.text) == (code, "why", "why")
    assert error.begun == "yes"
    assert error.side is Side.REMOTE
    assert error.hint


def test_texts_of_remote_errors() -> None:
    assert str(RemoteError("KeyError", "why", hint="h")) == (
        "the remote handler raised KeyError: why (h)"
    )
    assert RemoteError("", "why").summary == (
        "the remote handler raised an exception: why"
    )
    assert RemoteError("CallError", "only 3 left", code="out_of_stock").summary == (
        "the remote handler raised out_of_stock: only 3 left"
    )
    assert RemoteError("KeyError").summary == "the remote handler raised KeyError"


def test_busy() -> None:
    assert (Busy.code, Busy.begun) == ("resource_exhausted", "no")
    assert Busy("m").hint
