"""Entry: what a node writes into a directory, and how others read it.

An entry is JSON. A directory may be poisoned, so `decode_entry` bounds and checks
everything: what it does not like, it refuses as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastnode.discovery.protocol import AnnouncedNode
from fastnode.discovery.target import Target, normal_targets
from fastnode.errors import ConfigError
from fastnode.limits import MAX_ENTRY_BYTES
from fastnode.names import NodeName, check_service

__all__ = ["Entry", "decode_entry", "entry_of"]

#: The form of entries. A reader refuses entries with another number.
VERSION: Final = 1
#: Acceptors of one node, and services that it belongs to.
MAX_ENTRY_TARGETS: Final = 64
MAX_ENTRY_SERVICES: Final = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A node in a directory.

    Attributes:
        node: the name of the node.
        instance: identifies this run of the node.
        services: the services that the node belongs to.
        targets: where the node listens.
    """

    node: str
    instance: str
    services: tuple[str, ...]
    targets: tuple[Target, ...]

    def encode(self) -> bytes:
        """Return the entry as JSON.

        Raises:
            ConfigError: the entry is longer than readers allow.
        """
        content = {
            "version": VERSION,
            "node": self.node,
            "instance": self.instance,
            "services": list(self.services),
            "targets": [
                {"host": each.host, "port": each.port, "weight": each.weight}
                for each in self.targets
            ],
        }
        data = json.dumps(content, separators=(",", ":")).encode()
        if len(data) > MAX_ENTRY_BYTES:
            raise ConfigError(
                f"the entry of {self.node} has {len(data)} bytes, and at most "
                f"{MAX_ENTRY_BYTES} are allowed",
                hint="announce fewer services",
            )
        return data


def entry_of(node: AnnouncedNode, services: Sequence[str]) -> Entry:
    """Return the entry of a node.

    Raises:
        ConfigError: the node has no acceptor, or too many; a service has no proper
            name; or an acceptor has no address that others can reach.
    """
    if isinstance(services, str):
        raise ConfigError(
            f"the services of {node.name} are {services!r}", hint="write a list"
        )
    names = tuple(dict.fromkeys(map(check_service, services)))
    targets = normal_targets(Target(*each.advertised) for each in node.acceptors)
    for what, number, most in (
        ("services", len(names), MAX_ENTRY_SERVICES),
        ("acceptors", len(targets), MAX_ENTRY_TARGETS),
    ):
        if not 1 <= number <= most:
            raise ConfigError(
                f"{node.name} cannot be announced: it has {number} {what}",
                hint=f"a node that is announced has 1 to {most}",
            )
    return Entry(node.name, node.instance, names, targets)


def decode_entry(data: bytes) -> Entry:
    """Read an entry.

    Raises:
        ValueError: the data is not an entry; `ConfigError` is one.
    """
    if len(data) > MAX_ENTRY_BYTES:
        raise ValueError(f"it has more than {MAX_ENTRY_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    fields = _of(dict, content, "entry")
    if fields.get("version") != VERSION:
        raise ValueError(f"it has the version {str(fields.get('version'))[:20]}")
    node = str(NodeName.parse(_of(str, fields.get("node"), "node")))
    instance = _of(str, fields.get("instance"), "instance")
    if not instance.isalnum() or len(instance) > 64:
        raise ValueError("its instance is not an identifier")
    services = _of(list, fields.get("services"), "services")
    targets = _of(list, fields.get("targets"), "targets")
    if len(services) > MAX_ENTRY_SERVICES or len(targets) > MAX_ENTRY_TARGETS:
        raise ValueError("it has too many services or targets")
    return Entry(
        node,
        instance,
        tuple(map(check_service, services)),
        normal_targets(map(_target, targets)),
    )


def _target(value: object) -> Target:
    fields = _of(dict, value, "target")
    return Target(fields.get("host"), fields.get("port"), fields.get("weight", 100))


def _of(kind: type, value: object, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its {what} is a {type(value).__name__}")
    return value
