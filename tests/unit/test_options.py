"""Options: checked when made, frozen afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastnode import AcceptorOptions, ConfigError, NetworkOptions, NodeOptions


@pytest.mark.parametrize(
    "values",
    [{"port": -1}, {"port": 65536}, {"port": "80"}, {"port": True}, {"port_range": 0},
     {"max_links": 0}, {"max_links_per_peer": 0}, {"max_links_per_peer": 1.5},
     {"max_pending": 0}, {"max_handshakes": 0}, {"max_handshakes": 1.5},
     {"max_handshakes_per_address": 0}],
)  # fmt: skip
def test_acceptor_options(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))) as caught:
        AcceptorOptions(**values)
    assert caught.value.hint


@pytest.mark.parametrize(
    "values",
    [{"max_message_size": 0}, {"handshake_timeout": 0}, {"handshake_timeout": "1"},
     {"handshake_timeout": float("nan")}, {"keepalive_interval": -1}, {"window": 1},
     {"window": 1 << 40}, {"low_water": 2 << 20}, {"max_queued": 1},
     {"slow_callback_seconds": 0}, {"busy_poll": -0.0001}, {"busy_poll": 1},
     {"busy_poll": "100us"}],
)  # fmt: skip
def test_network_options(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))) as caught:
        NetworkOptions(**values)
    assert caught.value.hint


def test_node_options() -> None:
    with pytest.raises(ConfigError, match="shutdown_timeout"):
        NodeOptions(shutdown_timeout=-1)


def test_the_defaults_of_the_contract() -> None:
    options = NodeOptions()
    assert options.shutdown_timeout == 30.0
    (acceptor,) = options.network.acceptors
    assert (acceptor.host, acceptor.port, acceptor.port_range) == (None, 15000, 16)
    assert not options.network.insecure_skip_verify
    assert not options.network.plaintext
    assert options.network.verify_peer_name
    assert options.network.handshake_timeout == 10.0


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetworkOptions().plaintext = True  # type: ignore[misc]
    assert isinstance(NetworkOptions(acceptors=[]).acceptors, tuple)
