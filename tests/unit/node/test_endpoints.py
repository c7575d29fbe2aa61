"""Handlers that cannot be, and what their types say."""

from __future__ import annotations

from typing import Any

import pytest

from fastnode import ConfigError, Message, NetworkOptions, Node, NodeOptions

PLAIN = NodeOptions(network=NetworkOptions(plaintext=True))


def plain(message: Message) -> bytes:
    return message.payload


async def asynchronous(message: Message) -> bytes:
    return message.payload


def batch(messages: list[Message]) -> None:
    del messages


def test_without_parentheses() -> None:
    node: Any = Node("a@127.0.0.1", PLAIN)
    with pytest.raises(ConfigError, match="name of an endpoint") as caught:
        node.handler(plain)
    assert caught.value.hint == 'write @node.handler("name")'


def test_what_type_checkers_accept_and_what_not() -> None:
    node = Node("a@127.0.0.1", PLAIN)
    node.handler("1")(plain)
    node.handler("2")(asynchronous)
    node.handler("3", batch=True)(batch)
    node.handler("4")(lambda message: None)

    def text(message: Message) -> str:
        return message.endpoint

    node.handler("5")(text)  # type: ignore[type-var]
    node.handler("6", batch=True)(plain)  # type: ignore[type-var]
    node.handler("7")(batch)  # type: ignore[type-var]
