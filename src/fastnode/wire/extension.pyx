"""The extension block of a frame: deadline, request, metadata, status. Sans-IO.

docs/wire-format.md, "Extension blocks", has the layout. A block is a sequence of
fields, each with a type and a size. This module makes blocks of what a user passes, and
reads blocks of peers. Whatever a peer sends is checked before it is used, with the same
rules that apply to users: a broken rule is a `ConfigError` here and a `ProtocolError`
there.

The time that is left of a deadline is not known when a block is made: the frame may
wait in a queue. So the deadline is always the first field, with room for the time, and
whoever sends the frame writes the time there (`fastnode.wire.lane`).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastnode.wire.frame cimport get16, get64

import re
from collections.abc import Mapping
from types import MappingProxyType

from fastnode.errors import CODE_OF_ERROR, ConfigError, ProtocolError, Side
from fastnode.limits import (
    MAX_CODE_BYTES,
    MAX_DETAILS_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_METADATA_NAME_BYTES,
)

cdef enum:
    # Types of fields.
    DEADLINE = 1
    REQUEST = 2
    METADATA = 3
    STATUS = 4
    # Type and size, before each field.
    FIELD_BYTES = 3
    REQUEST_ID_BYTES = 16
    REQUEST_BYTES = 18
    # Sizes of a name and of a value, before them.
    ENTRY_BYTES = 3

cdef size_t MOST_BLOCK = MAX_EXTENSION_BYTES
cdef size_t MOST_METADATA = MAX_METADATA_BYTES
cdef Py_ssize_t MOST_ENTRIES = MAX_METADATA_ENTRIES
cdef Py_ssize_t MOST_NAME = MAX_METADATA_NAME_BYTES
cdef Py_ssize_t MOST_CODE = MAX_CODE_BYTES
cdef Py_ssize_t MOST_DETAILS = MAX_DETAILS_BYTES

# One for all messages without metadata.
cdef object NO_METADATA = MappingProxyType({})

# A token of RFC 9110, section 5.6.2, in lower case as HTTP/2 sends it.
cdef object NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
# Control characters, which could forge a line of a log or of an HTTP header. RFC 9110,
# section 5.5, forbids them in a field's value; a tab is allowed there.
cdef object CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search

# The block of a frame that has a deadline and nothing else.
cdef bytes DEADLINE_ALONE = b"\x01\x00\x08" + bytes(8)


@cython.final
@cython.no_gc  # its fields cannot refer back to it
cdef class Extension:
    """What the extension block of one frame says."""

    def __cinit__(self):
        self.time_left = -1
        self.attempt = 1

    @property
    def request(self):
        """The id of the request, 16 bytes, or None."""
        return self.request_id


# --- making --------------------------------------------------------------------------


cdef bytes field(int kind, bytes value):
    return b"%c%b%b" % (kind, len(value).to_bytes(2, "big"), value)


cdef bytes make_block(
    bint deadline, bytes request_id, int attempt, object metadata
):
    """Return the block of a message, call or reply, or None if there is nothing to say.

    Args:
        deadline: make room for the time that is left; the sender writes it.
        request_id: 16 bytes, or None.
        attempt: from 1; counts only with a `request_id`.
        metadata: a mapping of `str` to `str`, or None.

    Raises:
        ConfigError: the metadata breaks a rule.
    """
    cdef bytes block = DEADLINE_ALONE if deadline else None
    cdef bytes other
    if request_id is None and metadata is None:
        return block
    if request_id is not None:
        other = field(REQUEST, request_id + min(attempt, 0xFFFF).to_bytes(2, "big"))
        block = other if block is None else block + other
    if metadata is not None:
        other = encode_metadata(metadata)
        if other:
            other = field(METADATA, other)
            block = other if block is None else block + other
    return block


cdef bytes encode_metadata(object metadata):
    """Return the entries of a mapping as the wire has them.

    Raises:
        ConfigError: it is no mapping of `str` to `str`, a name is not one of an HTTP
            field, a value has a control character, or there is too much of it.
    """
    cdef list parts = []
    cdef set names = set()
    cdef size_t size = 0
    if not isinstance(metadata, Mapping):
        raise bad_metadata(f"it is a {type(metadata).__name__}")
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise bad_metadata(
                f"an entry maps {type(name).__name__} to {type(value).__name__}"
            )
        lower = name.lower()
        if len(lower) > MOST_NAME or NAME(lower) is None:
            raise bad_metadata(f"{name[:100]!r} is no name of an HTTP header field")
        if lower in names:
            raise bad_metadata(f"{lower!r} is there twice")
        if CONTROLS(value) is not None:
            raise bad_metadata(f"the value of {lower!r} has a control character")
        names.add(lower)
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            raise bad_metadata(f"the value of {lower!r} is not valid text") from None
        size += <size_t>(len(lower) + len(encoded))
        if size > MOST_METADATA:
            raise bad_metadata(f"it has more than {MOST_METADATA} bytes")
        if len(names) > MOST_ENTRIES:
            raise bad_metadata(f"it has more than {MOST_ENTRIES} entries")
        parts.append(
            b"%c%b%b%b"
            % (len(lower), len(encoded).to_bytes(2, "big"), lower.encode(), encoded)
        )
    return b"".join(parts)


cdef object bad_metadata(str what):
    return ConfigError(
        f"the metadata cannot be sent: {what}",
        hint=f"a mapping of str to str, with names like those of HTTP header fields, "
        f"at most {MOST_ENTRIES} entries and {MOST_METADATA} bytes of names and values",
    )


cdef bytes status_block(str code, bytes details):
    """Return the block of an error: the code that a handler chose, and its details."""
    return field(STATUS, b"%c%b%b" % (len(code), code.encode("ascii"), details))


# --- reading -------------------------------------------------------------------------


cdef object malformed(str what):
    return ProtocolError(
        f"the peer sent a malformed extension block: {what}", side=Side.REMOTE
    )


cdef Extension decode_block(bytes block):
    """Read a block. Fields of later versions are skipped.

    Raises:
        ProtocolError: it breaks a rule of the wire format.
    """
    cdef Extension found = Extension.__new__(Extension)
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(block)
    cdef size_t left = <size_t>PyBytes_GET_SIZE(block)
    cdef size_t at = 0
    cdef size_t size
    cdef unsigned int seen = 0
    cdef int kind
    while left:
        if left < FIELD_BYTES:
            raise malformed("a field is cut off")
        kind = data[at]
        size = get16(data + at + 1)
        at += FIELD_BYTES
        left -= FIELD_BYTES
        if size > left:
            raise malformed("a field is cut off")
        if 0 < kind <= STATUS:
            if seen >> kind & 1:
                raise malformed(f"field {kind} is there twice")
            seen |= 1 << kind
        if kind == DEADLINE:
            if size != TIME_LEFT_BYTES:
                raise malformed(f"a deadline of {size} bytes")
            found.time_left = <double>get64(data + at) / 1e6
        elif kind == REQUEST:
            if size != REQUEST_BYTES:
                raise malformed(f"a request of {size} bytes")
            found.request_id = block[at : at + REQUEST_ID_BYTES]
            found.attempt = get16(data + at + REQUEST_ID_BYTES)
            if found.attempt == 0:
                raise malformed("attempt 0")
        elif kind == METADATA:
            found.metadata = decode_metadata(block, at, at + size)
        elif kind == STATUS:
            decode_status(found, block, at, at + size)
        at += size
        left -= size
    return found


cdef object decode_metadata(bytes block, size_t at, size_t end):
    """Return the metadata that stands from `at` to `end`, a read-only mapping."""
    cdef dict entries = {}
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(block)
    cdef size_t name_size, value_size, size = 0
    cdef str name, value
    while at < end:
        if end - at < ENTRY_BYTES:
            raise malformed("an entry of the metadata is cut off")
        name_size = data[at]
        value_size = get16(data + at + 1)
        at += ENTRY_BYTES
        if name_size + value_size > end - at:
            raise malformed("an entry of the metadata is cut off")
        size += name_size + value_size
        if size > MOST_METADATA or len(entries) >= MOST_ENTRIES:
            raise malformed(
                f"metadata of more than {MOST_ENTRIES} entries or {MOST_METADATA} bytes"
            )
        try:
            name = block[at : at + name_size].decode("ascii")
            value = block[at + name_size : at + name_size + value_size].decode()
        except UnicodeDecodeError:
            raise malformed("an entry of the metadata is no text") from None
        at += name_size + value_size
        if NAME(name) is None or CONTROLS(value) is not None:
            raise malformed("an entry of the metadata has a forbidden character")
        if name in entries:
            raise malformed("a name of the metadata is there twice")
        entries[name] = value
    return MappingProxyType(entries) if entries else NO_METADATA


cdef int decode_status(Extension found, bytes block, size_t at, size_t end) except -1:
    """Read code and details of an error."""
    cdef size_t size
    if at == end:
        raise malformed("a status without a code")
    size = (<const unsigned char *>PyBytes_AS_STRING(block))[at]
    at += 1
    if size > end - at or not 0 < <Py_ssize_t>size <= MOST_CODE:
        raise malformed(f"a code of {size} bytes")
    if <Py_ssize_t>(end - at - size) > MOST_DETAILS:
        raise malformed("details that are too long")
    code = block[at : at + size].decode("ascii", "replace")
    if CODE_OF_ERROR.fullmatch(code) is None:
        raise malformed("a code with a character that is forbidden")
    found.code = code
    found.details = block[at + size : end]
    return 0


# --- the view from Python: tests, fuzzing --------------------------------------------


def encode(*, deadline=False, request_id=None, attempt=1, metadata=None):
    """Return a block as `make_block` makes it, b"" if there is nothing to say."""
    return make_block(deadline, request_id, attempt, metadata) or b""


def encode_status(str code not None, bytes details not None):
    """Return the block of an error."""
    return status_block(code, details)


def decode(bytes block not None):
    """Return the `Extension` that a block holds.

    Raises:
        ProtocolError: it breaks a rule of the wire format.
    """
    if <size_t>len(block) > MOST_BLOCK:
        raise malformed(f"{len(block)} bytes")
    return decode_block(block)


def encode_time_left(double seconds):
    """Return the value of a DEADLINE field, microseconds."""
    return microseconds(seconds)
