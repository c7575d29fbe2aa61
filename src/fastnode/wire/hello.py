"""HELLO: the first frame that each side of a link sends. Sans-IO.

Layout in docs/wire-format.md. The body of a HELLO comes from somebody whose name has
not been judged yet: everything in it is checked before it is used.

A feature is one field of `Hello`, declared with `_feature`, and the one module that the
declaration names uses it. `FEATURES` is the table of them. To encode and decode a new
feature takes no other line.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from fastnode.errors import ConfigError, ProtocolError, Side
from fastnode.limits import GROUP_BYTES, MAX_FRAME_BYTES, MAX_NODE_NAME_BYTES
from fastnode.names import NodeName

__all__ = [
    "FEATURES",
    "INSTANCE_BYTES",
    "PROTOCOL_VERSION",
    "TICKET_BYTES",
    "Feature",
    "Hello",
    "new_instance",
]

MAGIC: Final = b"fastnode"
PROTOCOL_VERSION: Final = 1
INSTANCE_BYTES: Final = 16
#: Enough that nobody guesses one.
TICKET_BYTES: Final = 16

# magic, oldest and newest version, reserved, instance, max_message, max_frame,
# window, endpoints, keepalive in ms, length of the name
_FIXED: Final = struct.Struct(f">8sBBH{INSTANCE_BYTES}sQIIIIH")
_FEATURE: Final = struct.Struct(">HH")
_COUNT: Final = struct.Struct(">I")

#: A peer whose limits are below these could not be served.
LEAST_FRAME_BYTES: Final = 16 * 1024
LEAST_WINDOW_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A feature of HELLO. The attribute of `Hello` is None for a side without it.

    Attributes:
        name: as in docs/wire-format.md.
        number: its type on the wire.
        sizes: how many bytes its value may have.
        used_by: the only module that reads and sets the attribute.
        encode: makes bytes of the attribute.
        decode: makes the attribute of bytes of one of the `sizes`. May raise a
            `ProtocolError`.
    """

    name: str
    number: int
    sizes: tuple[int, ...]
    used_by: str
    encode: Callable[[Any], bytes] = bytes
    decode: Callable[[bytes], Any] = bytes


def _feature(**values: Any) -> Any:
    """Return a field of `Hello` that is a feature; see `Feature`."""
    return field(default=None, metadata={"feature": Feature(**values)})


def _decode_count(value: bytes) -> int:
    """Return a count, which is at least 1."""
    (count,) = _COUNT.unpack(value)
    if count == 0:
        raise _bad("a count of zero")
    return int(count)


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side tells the other about itself.

    Attributes:
        name: its node name.
        instance: 16 random bytes that identify this run of the node. The first 8 are
            the same in all workers of one group.
        max_message: largest payload it takes, bytes.
        max_frame: largest frame it takes, header included, bytes.
        window: bytes it takes in a lane before it grants more.
        endpoints: names that it remembers in the endpoint dictionary of each lane.
        keepalive_ms: silence after which it probes, milliseconds.
        oldest, newest: protocol versions it speaks.
        ticket: the feature HANDOVER: this side can replace a link without loss. An
            acceptor gives the link a ticket, 16 random bytes. A dialer gives none, b"".
            None: this side cannot.
        succeeds: the feature SUCCEEDS: the ticket of the link that this link replaces;
            None: it replaces no link.
        extensions: the feature EXTENSIONS, b"": this side takes extension blocks and
            the kinds that came with them. None: it does not.
        group_workers: the feature WORKERS: how many workers the group of this side has.
            None: this side does not say.
        wants_another: the feature ADDITIONAL, b"": this dial wants an instance that the
            dialer has no link with. None: any instance will do.
    """

    name: NodeName
    instance: bytes
    max_message: int
    max_frame: int
    window: int
    endpoints: int
    keepalive_ms: int
    oldest: int = PROTOCOL_VERSION
    newest: int = PROTOCOL_VERSION
    ticket: bytes | None = _feature(
        name="HANDOVER",
        number=1,
        sizes=(0, TICKET_BYTES),
        used_by="fastnode.link.succession",
    )
    succeeds: bytes | None = _feature(
        name="SUCCEEDS",
        number=2,
        sizes=(TICKET_BYTES,),
        used_by="fastnode.link.succession",
    )
    extensions: bytes | None = _feature(
        name="EXTENSIONS",
        number=3,
        sizes=(0,),
        used_by="fastnode.link.extensions",
    )
    group_workers: int | None = _feature(
        name="WORKERS",
        number=4,
        sizes=(4,),
        used_by="fastnode.link.instances",
        encode=_COUNT.pack,
        decode=_decode_count,
    )
    wants_another: bytes | None = _feature(
        name="ADDITIONAL",
        number=5,
        sizes=(0,),
        used_by="fastnode.link.instances",
    )

    def encode(self) -> bytes:
        """The body of the HELLO frame."""
        name = str(self.name).encode()
        return (
            _FIXED.pack(
                MAGIC,
                self.oldest,
                self.newest,
                0,
                self.instance,
                self.max_message,
                self.max_frame,
                self.window,
                self.endpoints,
                self.keepalive_ms,
                len(name),
            )
            + name
            + b"".join(
                _encode_feature(feature, getattr(self, attribute))
                for attribute, feature in FEATURES.items()
            )
        )

    @classmethod
    def decode(cls, body: bytes) -> Hello:
        """Parse and check the body of a HELLO frame.

        Features behind the name are skipped where they are unknown.

        Raises:
            ProtocolError: malformed, or limits that nobody could keep.
        """
        if len(body) < _FIXED.size:
            raise _bad(f"{len(body)} bytes are too short")
        (magic, oldest, newest, _, instance, max_message, max_frame, window,
         endpoints, keepalive_ms, name_size) = _FIXED.unpack_from(body)  # fmt: skip
        if magic != MAGIC:
            raise _bad("it does not begin with the magic bytes")
        if oldest > newest or oldest == 0:
            raise _bad(f"versions {oldest} to {newest}")
        end = _FIXED.size + name_size
        if not 0 < name_size <= MAX_NODE_NAME_BYTES or end > len(body):
            raise _bad(f"a name of {name_size} bytes")
        try:
            name = NodeName.parse(body[_FIXED.size : end].decode())
        except (ConfigError, UnicodeDecodeError):
            raise _bad("the node name is not of the form name@host") from None
        if max_frame < LEAST_FRAME_BYTES or window < LEAST_WINDOW_BYTES:
            raise _bad(f"a frame limit of {max_frame} and a window of {window}")
        if endpoints == 0 or max_message == 0:
            raise _bad("limits of zero")
        return cls(
            name=name,
            instance=instance,
            max_message=max_message,
            max_frame=min(max_frame, MAX_FRAME_BYTES),
            window=window,
            endpoints=min(endpoints, 1 << 16),
            keepalive_ms=keepalive_ms,
            oldest=oldest,
            newest=newest,
            **_decode_features(body, end),
        )

    def version_with(self, other: Hello) -> int | None:
        """The newest version that both speak, or None."""
        version = min(self.newest, other.newest)
        return version if version >= max(self.oldest, other.oldest) else None


#: The features that this version knows, by attribute of `Hello`.
FEATURES: Final[dict[str, Feature]] = {
    each.name: each.metadata["feature"]
    for each in fields(Hello)
    if "feature" in each.metadata
}
_BY_NUMBER: Final = {
    feature.number: (attribute, feature) for attribute, feature in FEATURES.items()
}


def new_instance(group: bytes | None = None) -> bytes:
    """An id for a run of a node; runs that share `group` are workers of one group."""
    shared = os.urandom(GROUP_BYTES) if group is None else group
    return shared + os.urandom(INSTANCE_BYTES - GROUP_BYTES)


def _encode_feature(feature: Feature, value: Any) -> bytes:
    if value is None:
        return b""
    data = feature.encode(value)
    return _FEATURE.pack(feature.number, len(data)) + data


def _decode_features(body: bytes, at: int) -> dict[str, Any]:
    """Return the values of the known features, by attribute of `Hello`."""
    found: dict[str, Any] = {}
    while at < len(body):
        if len(body) - at < _FEATURE.size:
            raise _bad("a feature is cut off")
        number, size = _FEATURE.unpack_from(body, at)
        at += _FEATURE.size
        if len(body) - at < size:
            raise _bad("a feature is cut off")
        if number in _BY_NUMBER:
            attribute, feature = _BY_NUMBER[number]
            if attribute in found or size not in feature.sizes:
                raise _bad(f"feature {number} twice, or with {size} bytes")
            found[attribute] = feature.decode(body[at : at + size])
        at += size
    return found


def _bad(what: str) -> ProtocolError:
    return ProtocolError(
        f"the peer sent a malformed HELLO: {what}",
        side=Side.REMOTE,
        hint="it runs an incompatible version, or is not a fastnode peer",
    )
