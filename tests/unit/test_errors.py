"""The exception tree is the contract's."""

from __future__ import annotations

import pytest

import fastnode
from fastnode import CloseReason, FastnodeError, Side
from fastnode.errors import DuplicateLink, refusal_from_wire, renewed

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
    "LinkClosed": (FastnodeError, ConnectionError),
    "LinkLost": (fastnode.LinkClosed,),
    "ProtocolError": (FastnodeError,),
    "CallTimeout": (FastnodeError, TimeoutError),
    "RemoteError": (FastnodeError,),
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
