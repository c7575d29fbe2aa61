"""Messages and descriptors between two processes."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from fastnode.workers.channel import Channel
from helpers.nodes import until


class Heard:
    """One end of a channel, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[dict[str, Any]] = []
        self.descriptors: list[list[int]] = []
        self.ends = 0
        self.channel = Channel(sock, self._message, self._end)

    def _message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.messages.append(message)
        self.descriptors.append(descriptors)

    def _end(self) -> None:
        self.ends += 1


async def test_messages_and_descriptors() -> None:
    a, b = map(Heard, socket.socketpair())
    read, write = os.pipe()
    a.channel.send({"n": 1})
    a.channel.send({"n": 2}, [write])
    a.channel.send({"n": 3}, [write, write])
    b.channel.send({"m": 1})
    os.close(write)
    await until(lambda: len(b.messages) == 3 and a.messages)
    assert [message["n"] for message in b.messages] == [1, 2, 3]
    assert [len(each) for each in b.descriptors] == [0, 1, 2]
    for descriptor in (each for few in b.descriptors for each in few):
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, b"x")
        os.close(descriptor)
    assert os.read(read, 10) == b"xxx"
    os.close(read)
    a.channel.close()
    await until(lambda: b.ends)
    assert (a.ends, b.ends) == (0, 1)
    b.channel.send({"n": 4})
    b.channel.close()
    assert b.ends == 1


async def test_what_is_cut_into_pieces() -> None:
    ours, theirs = socket.socketpair()
    heard = Heard(theirs)
    with ours:
        for byte in b'{"n": 1, "descriptors": 0}\n{"n": 2, "descriptors": 0}\n{"n"':
            ours.send(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: len(heard.messages) == 2)
    await until(lambda: heard.ends)
    assert heard.messages == [{"n": 1}, {"n": 2}]


async def test_an_end_that_does_not_read_is_not_given_up() -> None:
    """A group that was stopped by a debugger finds its workers when it goes on."""
    ours, theirs = socket.socketpair()
    a = Heard(ours)
    sent = 0
    while a.channel.send({"n": sent}):
        sent += 1
    assert not a.channel.send({"n": -1})
    b = Heard(theirs)
    await until(lambda: len(b.messages) == sent)
    assert a.channel.send({"n": sent})
    await until(lambda: len(b.messages) == sent + 1)
    assert [message["n"] for message in b.messages] == list(range(sent + 1))
    assert (a.ends, b.ends) == (0, 0)
    b.channel.close()
    await until(lambda: a.ends)
    assert not a.channel.send({"n": 0})


async def test_what_has_arrived_is_read_though_another_copy_stays_open() -> None:
    """A program that the other process has started may hold its socket."""
    ours, theirs = socket.socketpair()
    a, b = Heard(ours), Heard(theirs)
    with theirs.dup():
        for number in range(3):
            b.channel.send({"n": number})
        b.channel.close()
        a.channel.drain()
        assert [message["n"] for message in a.messages] == [0, 1, 2]
        assert a.ends == 0
    await until(lambda: a.ends)
