"""What a group and its nodes can be made of."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest

import fastnode
from fastnode import (
    AcceptorOptions,
    ConfigError,
    NetworkOptions,
    Node,
    NodeOptions,
    Peer,
    WorkerGroup,
)
from fastnode.limits import GROUP_BYTES, MAX_WORKERS
from fastnode.wire.hello import INSTANCE_BYTES, new_instance
from fastnode.workers.application import Application
from helpers.nodes import A, B, running, start


def options(number: int = 0) -> NodeOptions:
    return NodeOptions(network=NetworkOptions(plaintext=True))


def setup(node: Node) -> None:
    pass


@pytest.mark.parametrize("given", [options, partial(options, 1), "here:options"])
def test_what_can_be_given_to_a_worker(given: Any) -> None:
    group = WorkerGroup(A, given, setup, workers=3)
    assert repr(group) == f"<WorkerGroup {A}, 0 of 3 up>"
    assert (group.addresses, group.status()) == ((), ())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "no name"}, "no name"),
        ({"options": None}, "cannot be called"),
        ({"options": NodeOptions()}, "options is a NodeOptions, which cannot"),
        ({"options": lambda: None}, "cannot be given to another process"),
        ({"setup": lambda node: None}, "module:function"),
        ({"setup": 5}, "setup is 5"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": True}, "workers is True"),
        ({"workers": 100_000}, "workers is 100000"),
        ({"start_timeout": -1.0}, "start_timeout"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout"),
        ({"hang_timeout": 0.0}, "hang_timeout"),
        ({"hang_timeout": float("nan")}, "hang_timeout"),
    ],
)
def test_what_cannot(given: dict[str, Any], said: str) -> None:
    known = {"name": A, "options": options, **given}
    with pytest.raises(ConfigError, match=said):
        WorkerGroup(**known)


def test_a_worker_for_each_core() -> None:
    assert " of 0 up" not in repr(WorkerGroup(A, options))


@pytest.mark.parametrize(
    "name", ["no_such_module:options", "fastnode:no_such_name", "::", "fastnode.limits"]
)
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(ConfigError, match="options"):
        Application(A, name, None).make_options()


async def test_a_group_that_does_not_run() -> None:
    group = WorkerGroup(A, options)
    with pytest.raises(ConfigError, match="does not run"):
        await group.restart()
    await group.stop()


def test_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'workers_'"):
        getattr(fastnode, "workers_")  # noqa: B009


# --- instances ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "2", MAX_WORKERS + 1])
def test_sizes_that_no_group_has(size: Any) -> None:
    with pytest.raises(ConfigError, match="group_size"):
        NodeOptions(group=bytes(GROUP_BYTES), group_size=size)


def test_a_size_needs_a_group() -> None:
    with pytest.raises(ConfigError, match="without a group") as caught:
        NodeOptions(group_size=2)
    assert "8 bytes" in (caught.value.hint or "")
    assert NodeOptions(group=bytes(GROUP_BYTES), group_size=2).group_size == 2


def test_instances_of_a_group() -> None:
    group = bytes(range(GROUP_BYTES))
    first, second = new_instance(group), new_instance(group)
    assert first != second
    assert len(first) == INSTANCE_BYTES
    assert first[:GROUP_BYTES] == second[:GROUP_BYTES] == group
    assert new_instance()[:GROUP_BYTES] != new_instance()[:GROUP_BYTES]


def peer(name: str, instance: bytes) -> Peer:
    return Peer(name, ("h", 1), instance=instance.hex())


def test_siblings() -> None:
    group = bytes(GROUP_BYTES)
    first = new_instance(group)
    assert peer(A, first).is_sibling_of(peer(A, new_instance(group)))
    assert not peer(A, first).is_sibling_of(peer(A, first))
    assert not peer(A, first).is_sibling_of(peer(B, new_instance(group)))
    assert not peer(A, first).is_sibling_of(peer(A, new_instance()))


@pytest.mark.parametrize("group", [b"", b"1234567", b"123456789", "12345678", 8])
def test_no_group(group: Any) -> None:
    with pytest.raises(ConfigError, match="8 bytes"):
        NodeOptions(group=group)


# --- listeners ---------------------------------------------------------------------


async def test_a_listening_socket_that_is_there() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    acceptors = [AcceptorOptions(listener=sock)]
    async with running(A, acceptors=acceptors) as a, running(B, listens=False) as b:
        assert a.acceptors[0].address == address
        b.add_route(fastnode.Route("^alpha@", *address))
        assert (await b.connect(A)).peer.address == address
    assert sock.fileno() == -1


async def test_a_listener_that_is_none() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    with pytest.raises(ConfigError, match="listener"):
        await start(A, acceptors=[AcceptorOptions(listener=sock)])
