"""What a peer's messages would cost, found out before OpenSSL reads them.

OpenSSL decodes the public key of every certificate as soon as a Certificate message is
complete, before anything is verified. That can take far longer than a handshake. A
certificate of 700 bytes with an elliptic curve of its own, and a compressed point on
it, takes 160 ms, and a message of 16 KiB holds 24 of them. No callback of OpenSSL runs
between the end of the message and that work, except the message callback: it is told of
each handshake message before the message is processed.

Theory of operation. `inspect` is the message callback of every context that fastnode
makes where OpenSSL can be reached. It walks through the DER of each certificate with
bounds checks and without memory of its own, which takes about a microsecond for each
certificate. Where a message would cost too much, `inspect` remembers why, on this
thread, and makes the message invalid: it overwrites the first byte of its body, in the
buffer of OpenSSL. Then OpenSSL refuses the message as malformed (decode_error) and
decodes nothing. The hash of the handshake was updated before, but the handshake ends
here in any case. `fastnode.openssl.verification` refuses once more in its own callback,
in case a future OpenSSL hands out a copy.

`inspect` also counts the messages that may follow a TLS 1.3 handshake: KeyUpdate and
NewSessionTicket (RFC 8446, 4.6). Each makes OpenSSL derive keys, and one call of
`SSL_read` processes all that have come. An engine says with `allow_messages` how many
more a peer may send. `inspect` makes the next one invalid in the same way.

Rules for whoever edits this. `inspect` runs inside OpenSSL, without the GIL, on bytes
of a stranger. It fails closed: what the walk cannot read is refused, above all BER
that is not DER, because OpenSSL reads BER too. Lengths are compared before they are
used.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memset

from fastnode.limits import (
    MAX_CERTIFICATE_NAMES,
    MAX_CHAIN_CERTIFICATES,
    MAX_NAME_COMPARISONS,
    MAX_RSA_EXPONENT_BITS,
    MAX_RSA_MODULUS_BITS,
)

cdef extern from *:
    """
    /* What the last Certificate message on this thread was refused for. */
    static __thread int fastnode_burden_kind;
    static __thread int fastnode_burden_depth;
    static __thread size_t fastnode_burden_amount;
    /* How many messages may follow a handshake, see allow_messages. */
    static __thread int fastnode_burden_allowed = -1;
    static __thread int fastnode_burden_left;
    """
    int last_kind "fastnode_burden_kind"
    int last_depth "fastnode_burden_depth"
    size_t last_amount "fastnode_burden_amount"
    int allowed "fastnode_burden_allowed"
    int last_left "fastnode_burden_left"

cdef enum:
    # openssl/ssl3.h
    RT_HANDSHAKE = 22
    MT_NEW_SESSION_TICKET = 4
    MT_CERTIFICATE = 11
    MT_KEY_UPDATE = 24
    # openssl/prov_ssl.h
    TLS1_3 = 0x0304
    # Type and length of a handshake message.
    HEAD_BYTES = 4
    # DER (X.690)
    INTEGER = 0x02
    BIT_STRING = 0x03
    OCTET_STRING = 0x04
    OBJECT_ID = 0x06
    BOOLEAN = 0x01
    SEQUENCE = 0x30
    CONSTRUCTED = 0x20
    # Of a TBSCertificate (RFC 5280, 4.1): explicit tags of version and extensions.
    VERSION = 0xA0
    EXTENSIONS = 0xA3

cdef size_t most_certificates = MAX_CHAIN_CERTIFICATES
cdef size_t most_names = MAX_CERTIFICATE_NAMES
cdef size_t most_comparisons = MAX_NAME_COMPARISONS
cdef size_t most_modulus_bits = MAX_RSA_MODULUS_BITS
cdef size_t most_exponent_bits = MAX_RSA_EXPONENT_BITS

# Object identifiers, as DER writes them.
cdef const uint8_t *EC_KEY = b"\x2a\x86\x48\xce\x3d\x02\x01"
# rsaEncryption, RSAES-OAEP and RSASSA-PSS differ in the byte that follows.
cdef const uint8_t *RSA_KEY = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01"
cdef const uint8_t *ALTERNATIVE_NAMES = b"\x55\x1d\x11"
cdef const uint8_t *NAME_CONSTRAINTS = b"\x55\x1d\x1e"


# Bytes that are still to be read.
cdef struct Span:
    const uint8_t *at
    size_t left


# What is counted over all certificates of a message.
cdef struct Count:
    size_t names
    size_t constraints


cdef void inspect(
    int writing,
    int version,
    int kind,
    const void *data,
    size_t size,
    void *connection,
    void *arg,
) noexcept nogil:
    """Look at a handshake message that was received, and spoil it if it is too costly.

    A message callback of OpenSSL: see `SSL_CTX_set_msg_callback`.
    """
    global last_kind, last_depth, last_amount
    cdef const uint8_t *message = <const uint8_t *>data
    cdef Burden found
    if writing or kind != RT_HANDSHAKE or size <= HEAD_BYTES:
        return
    if message[0] == MT_CERTIFICATE:
        found = burden_of(message, size, version)
        last_kind, last_depth, last_amount = found.kind, found.depth, found.amount
        if found.kind:
            # A length that the message does not have, in both versions of TLS.
            (<uint8_t *>message)[HEAD_BYTES] = 0xFF
    elif version == TLS1_3 and allowed != ANY_NUMBER:
        count_message(<uint8_t *>message, size)


cdef int count_message(uint8_t *message, size_t size) noexcept nogil:
    """Count a message that follows a handshake, and spoil it if it is one too many."""
    global allowed
    if message[0] != MT_KEY_UPDATE and message[0] != MT_NEW_SESSION_TICKET:
        return 0
    if allowed > 0:
        allowed -= 1
        return 0
    allowed = TOO_MANY
    # A KeyUpdate is 0 or 1, and a ticket is not empty.
    memset(
        message + HEAD_BYTES,
        0xFF if message[0] == MT_KEY_UPDATE else 0,
        size - HEAD_BYTES,
    )
    return 0


cdef int allow_messages(int count) noexcept nogil:
    """Say how many KeyUpdates and session tickets the peer may send that is read next
    on this thread; `ANY_NUMBER`: they are not counted.

    Returns:
        How many are left of the last number; `TOO_MANY` if one was refused.
    """
    global allowed, last_left
    last_left = allowed
    allowed = count
    return last_left


def messages_left():
    """What `allow_messages` returned last on this thread, for tests."""
    return last_left


cdef Burden judged() noexcept nogil:
    """What the last message on this thread was refused for; its kind is 0 if it was
    not."""
    return Burden(last_kind, last_depth, last_amount)


cdef int forget() noexcept nogil:
    """Forget what the last message on this thread was refused for."""
    global last_kind
    last_kind = 0
    return 0


def burden(const unsigned char[::1] message not None, int version):
    """`burden_of`, for tests: kind, depth and amount; None where nothing is too much.

    Args:
        message: a whole handshake message, with its head.
        version: 0x0304 for TLS 1.3.
    """
    cdef Burden found
    if message.shape[0] <= HEAD_BYTES:
        return None
    found = burden_of(&message[0], <size_t>message.shape[0], version)
    return (found.kind, found.depth, found.amount) if found.kind else None


# --- messages ---------------------------------------------------------------------


cdef Burden burden_of(const uint8_t *message, size_t size, int version) noexcept nogil:
    """What is too costly in a Certificate message.

    Args:
        message: with its head; size: more than `HEAD_BYTES`.
        version: 0x0304 for TLS 1.3; older messages have another form.
    """
    cdef Span body = Span(message + HEAD_BYTES, size - HEAD_BYTES)
    cdef Span chain, entry, ignored
    cdef Count count = Count(0, 0)
    cdef Burden found = Burden(0, 0, 0)
    if version == TLS1_3 and not vector(&body, 1, &ignored):
        found.kind = UNREADABLE
        return found
    if not vector(&body, 3, &chain) or body.left:
        found.kind = UNREADABLE
        return found
    while chain.left:
        if not vector(&chain, 3, &entry) or (
            version == TLS1_3 and not vector(&chain, 2, &ignored)
        ):
            found.kind = UNREADABLE
            return found
        if <size_t>found.depth == most_certificates:
            return Burden(TOO_MANY_CERTIFICATES, 0, most_certificates + 1)
        found.kind = certificate(entry, &count, &found.amount)
        if found.kind:
            return found
        found.depth += 1
    # Each name of each certificate may be compared with each constraint. Neither number
    # is above the bytes of a message, which are below 2**24.
    if count.names * count.constraints > most_comparisons:
        found.amount = count.names * count.constraints
        found.kind = TOO_MANY_COMPARISONS
    found.depth = 0
    return found


cdef int certificate(Span der, Count *count, size_t *amount) noexcept nogil:
    """What is too costly in one certificate; 0: nothing."""
    cdef Span whole, fields, field, key
    cdef int tag, _at, kind
    if element(&der, &whole) != SEQUENCE or element(&whole, &fields) != SEQUENCE:
        return UNREADABLE
    tag = element(&fields, &field)
    if tag == VERSION:
        tag = element(&fields, &field)
    # That was the serial number. Signature algorithm, issuer, validity, subject:
    for _at in range(4):
        if tag < 0:
            return UNREADABLE
        tag = element(&fields, &field)
    if tag < 0 or element(&fields, &key) != SEQUENCE:
        return UNREADABLE
    kind = public_key(key, amount)
    if kind:
        return kind
    while fields.left:
        tag = element(&fields, &field)
        if tag < 0:
            return UNREADABLE
        if tag == EXTENSIONS:
            kind = extensions(field, count, amount)
            if kind:
                return kind
    return 0


cdef int public_key(Span key, size_t *amount) noexcept nogil:
    """What is too costly in a SubjectPublicKeyInfo."""
    cdef Span algorithm, name, parameters, bits, numbers
    cdef int tag = -1
    if (
        element(&key, &algorithm) != SEQUENCE
        or element(&algorithm, &name) != OBJECT_ID
        or element(&key, &bits) != BIT_STRING
    ):
        return UNREADABLE
    if algorithm.left:
        tag = element(&algorithm, &parameters)
        if tag < 0:
            return UNREADABLE
    if not (name.left == 9 and memcmp(name.at, RSA_KEY, 8) == 0):
        # A curve, or a group, that is written out. For EC keys RFC 5480, 2.1.1, allows
        # none. Other keys of this kind (DSA, Diffie-Hellman) are of no use in TLS.
        return EXPLICIT_CURVE if tag >= 0 and tag & CONSTRUCTED else 0
    # The first byte says how many bits of the last one are not used.
    if not bits.left:
        return UNREADABLE
    bits.at += 1
    bits.left -= 1
    if element(&bits, &numbers) != SEQUENCE:
        return UNREADABLE
    if element(&numbers, &name) != INTEGER or element(&numbers, &parameters) != INTEGER:
        return UNREADABLE
    amount[0] = bit_length(name)
    if amount[0] > most_modulus_bits:
        return RSA_MODULUS
    amount[0] = bit_length(parameters)
    if amount[0] > most_exponent_bits:
        return RSA_EXPONENT
    return 0


cdef int extensions(Span field, Count *count, size_t *amount) noexcept nogil:
    """Count the names and name constraints of a certificate."""
    cdef Span all_of_them, extension, name, value
    cdef int tag
    cdef size_t names = 0
    if element(&field, &all_of_them) != SEQUENCE:
        return UNREADABLE
    while all_of_them.left:
        if element(&all_of_them, &extension) != SEQUENCE:
            return UNREADABLE
        if element(&extension, &name) != OBJECT_ID:
            return UNREADABLE
        tag = element(&extension, &value)
        if tag == BOOLEAN:  # whether it is critical
            tag = element(&extension, &value)
        if tag != OCTET_STRING:
            return UNREADABLE
        if name.left != 3:
            continue
        if memcmp(name.at, ALTERNATIVE_NAMES, 3) == 0:
            if not add_names(value, &names):
                return UNREADABLE
            count.names += names
        elif memcmp(name.at, NAME_CONSTRAINTS, 3) == 0:
            if not add_constraints(value, &names):
                return UNREADABLE
            count.constraints += names
        if names > most_names:
            amount[0] = names
            return TOO_MANY_NAMES
        names = 0
    return 0


cdef bint add_names(Span value, size_t *count) noexcept nogil:
    """Count the elements of the sequence that a value consists of."""
    cdef Span names, name
    if element(&value, &names) < 0:
        return False
    while names.left:
        if element(&names, &name) < 0:
            return False
        count[0] += 1
    return True


cdef bint add_constraints(Span value, size_t *count) noexcept nogil:
    """Count permitted and excluded subtrees (RFC 5280, 4.2.1.10)."""
    cdef Span lists, subtrees, subtree
    if element(&value, &lists) < 0:
        return False
    while lists.left:
        if element(&lists, &subtrees) < 0:
            return False
        while subtrees.left:
            if element(&subtrees, &subtree) < 0:
                return False
            count[0] += 1
    return True


# --- bytes ------------------------------------------------------------------------


cdef bint vector(Span *of, size_t width, Span *body) noexcept nogil:
    """Take a vector of TLS with a length of `width` bytes; False where it is cut."""
    cdef size_t length = 0
    cdef size_t at
    if of.left < width:
        return False
    for at in range(width):
        length = length << 8 | of.at[at]
    of.at += width
    of.left -= width
    if length > of.left:
        return False
    body.at, body.left = of.at, length
    of.at += length
    of.left -= length
    return True


cdef int element(Span *of, Span *body) noexcept nogil:
    """Take a DER element: its tag, or -1 where it is cut, or not DER."""
    cdef size_t length, width, at
    cdef int tag
    if of.left < 2:
        return -1
    tag = of.at[0]
    length = of.at[1]
    of.at += 2
    of.left -= 2
    # Tags of several bytes are not in certificates.
    if tag & 0x1F == 0x1F:
        return -1
    if length & 0x80:
        width = length & 0x7F
        # 0 is BER's way to say that the end will be marked. No message has 2**24 bytes.
        if width == 0 or width > 4 or width > of.left:
            return -1
        length = 0
        for at in range(width):
            length = length << 8 | of.at[at]
        of.at += width
        of.left -= width
    if length > of.left:
        return -1
    body.at, body.left = of.at, length
    of.at += length
    of.left -= length
    return tag


cdef size_t bit_length(Span number) noexcept nogil:
    """How many bits a number has that is not negative."""
    cdef size_t bits
    cdef int first
    while number.left and number.at[0] == 0:
        number.at += 1
        number.left -= 1
    if not number.left:
        return 0
    bits = (number.left - 1) * 8
    first = number.at[0]
    while first:
        bits += 1
        first >>= 1
    return bits
