"""A verify callback in the `SSL_CTX` behind an `ssl.SSLContext`.

Python's `ssl` can neither ask for a certificate without verifying it nor say which
certificate it refused. OpenSSL can, through `SSL_CTX_set_cert_verify_callback`.

Theory of operation. The functions are looked up in the very library that the `_ssl`
module uses: its file is opened again without loading anything (RTLD_NOLOAD), and a
look-up through that handle goes to what it is linked with. The `SSL_CTX` of a context
is told by OpenSSL itself: an ex-data index (`CRYPTO_get_ex_new_index`) has a
`new_func` that is called with each new `SSL_CTX`, and `HookedContext` takes the only
one that was made on this thread while Python made its context. Nothing is assumed
about the memory of Python's or OpenSSL's objects. Before a context is used, settings
made through Python must show through the library's own functions.

Where that is impossible (OpenSSL linked in statically, as in some redistributions of
Python; LibreSSL) `why_unavailable` says why, and contexts are made without it.

Rules for editors of this file. OpenSSL calls the callback inside `do_handshake`,
without the GIL, on the thread of the handshake. If that thread has called
`expect_verdict` before, the result is kept in `found` for that thread until
`take_verdict`. The callback fails closed: every error in it refuses the peer. It may
call the C API, but must not run Python code. A frame of Python would handle pending
signals, and they would be lost.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memcmp

from fastnode.openssl.burden cimport Burden, forget, inspect, judged
from fastnode.openssl.library cimport STACK, X509, X509_STORE_CTX, lib, load

import ssl
from threading import RLock

from fastnode.errors import ConfigError
from fastnode.openssl.verdict import AuthorityName, Verdict, too_costly

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef extern from *:
    """
    /* The SSL_CTX objects that OpenSSL made on this thread since the last look. */
    static __thread void *fastnode_made;
    static __thread int fastnode_made_count;
    /* Whether somebody on this thread wants to know what is found. */
    static __thread int fastnode_expected;
    """
    void *made "fastnode_made"
    int made_count "fastnode_made_count"
    int expected "fastnode_expected"

cdef enum:
    # openssl/ssl.h
    CTRL_MODE = 33
    MODE_NO_AUTO_CHAIN = 8
    CTRL_SET_SESS_CACHE_MODE = 44
    SESS_CACHE_OFF = 0
    CTRL_SET_MAX_CERT_LIST = 51
    CTRL_SET_GROUPS_LIST = 92
    # openssl/x509.h: XN_FLAG_RFC2253 without ASN1_STRFLGS_ESC_MSB: UTF-8 stays.
    NAME_RFC4514 = 0x1110313
    # openssl/x509_vfy.h
    FLAG_CRL_CHECK = 0x4
    FLAG_CRL_CHECK_ALL = 0x8
    V_OK = 0
    V_UNSPECIFIED = 1
    V_UNABLE_TO_GET_CRL = 3
    V_CERT_NOT_YET_VALID = 9
    V_CERT_HAS_EXPIRED = 10
    V_CRL_NOT_YET_VALID = 11
    V_CRL_HAS_EXPIRED = 12
    V_OUT_OF_MEM = 17
    V_UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20
    V_UNHANDLED_CRITICAL_CRL_EXTENSION = 36
    V_PERMITTED_VIOLATION = 47
    V_EXCLUDED_VIOLATION = 48
    V_SUBTREE_MINMAX = 49
    V_APPLICATION_VERIFICATION = 50
    V_UNSUPPORTED_CONSTRAINT_TYPE = 51
    V_UNSUPPORTED_CONSTRAINT_SYNTAX = 52
    V_UNSUPPORTED_NAME_SYNTAX = 53
    # openssl/obj_mac.h
    NID_NAME_CONSTRAINTS = 666
    # openssl/tls1.h: what a callback that selects a protocol (ALPN) returns.
    ALPN_OK = 0
    ALPN_ALERT_FATAL = 2
    ALPN_NOACK = 3
    # The bounds of what is kept from a peer. They are enough for any real chain.
    MOST_PRESENTED = 16
    MOST_AUTHORITIES = 64
    MOST_NAME_BYTES = 4096
    NAME_TEXT_BYTES = 256
    # Certificates with name constraints that connections share.
    MOST_SHARED = 64
    # How often a context is made again because others appeared with it.
    ATTEMPTS = 5

# Why the hook cannot be used; None: it can. Unset before the first look.
cdef object reason = ...
cdef object looking = RLock()
# The arguments of a Verdict, by thread.
cdef dict found = {}
# Certificates with name constraints, by their DER. All connections under one authority
# keep the same copy until they are judged.
cdef dict shared = {}
# Names of protocols for ALPN, each behind its length. Contexts point at them.
cdef dict protocols = {}


def why_unavailable():
    """Why this interpreter's OpenSSL cannot be reached; None where it can."""
    global reason
    if reason is ...:
        with looking:
            if reason is ...:
                why = load(remember)
                if why is None:
                    why = try_it()
                reason = why
    return reason


def expect_verdict():
    """Keep what the next verification on this thread finds, for `take_verdict`."""
    global expected
    found.pop(PyThread_get_thread_ident(), None)
    forget()
    expected = 1


def take_verdict():
    """The `Verdict` of the last verification since `expect_verdict` on this thread,
    once; or None."""
    global expected
    cdef Burden burden = judged()
    expected = 0
    if burden.kind:
        forget()
        return too_costly(burden.kind, burden.depth, burden.amount)
    arguments = found.pop(PyThread_get_thread_ident(), None)
    if arguments is None:
        return None
    return verdict_of(arguments)


cdef object verdict_of(tuple described):
    """The `Verdict` for what `describe` returned."""
    code, text, depth, presented, culprit, names, constrained_by = described
    authorities = tuple([AuthorityName(*each) for each in names])
    return Verdict(code, text, depth, presented, culprit, authorities, constrained_by)


@cython.final
cdef class HookedContext:
    """A new `ssl.SSLContext` and the `SSL_CTX` behind it.

    Args:
        protocol: `ssl.PROTOCOL_TLS_SERVER` or `ssl.PROTOCOL_TLS_CLIENT`.

    All of its methods are for the time before the context is used.

    Raises:
        ConfigError: this interpreter's OpenSSL cannot be reached.
    """

    cdef readonly object context
    cdef void *pointer

    def __init__(self, int protocol):
        if why_unavailable() is not None:
            raise ConfigError(
                f"the OpenSSL of this interpreter cannot be reached: {reason}"
            )
        self.make(protocol)

    cdef int make(self, int protocol) except -1:
        """Make the context, and find what is behind it.

        Finalizers may make contexts of their own at any moment: then once more.
        """
        cdef int before, _attempt
        for _attempt in range(ATTEMPTS):
            before = made_count
            self.context = ssl.SSLContext(protocol)
            self.pointer = made
            if made_count - before == 1:
                return self.prove()
        raise ConfigError(
            f"{made_count - before} TLS contexts appeared where one was made",
            hint="a library in this process makes TLS contexts of its own at "
            "unexpected moments, or has replaced ssl.SSLContext",
        )

    cdef int prove(self) except -1:
        """What is set through Python shows in the library: it is this context."""
        options, mode = self.context.options, self.context.verify_mode
        hostnames = self.context.check_hostname
        self.context.check_hostname = False
        for value in (ssl.CERT_OPTIONAL, ssl.CERT_NONE, ssl.CERT_REQUIRED):
            self.context.verify_mode = value
            self.context.options ^= ssl.OP_NO_TICKET
            if (
                # SSL_VERIFY_NONE 0, _PEER 1, _FAIL_IF_NO_PEER_CERT 2
                lib.get_verify_mode(self.pointer) != (0, 1, 3)[value]
                or lib.get_options(self.pointer)
                != <uint64_t>(self.context.options & 0xFFFFFFFFFFFFFFFF)
            ):
                raise ConfigError(
                    "the TLS context that OpenSSL made is not the one that Python has"
                )
        self.context.verify_mode = mode
        self.context.check_hostname = hostnames
        self.context.options = options
        return 0

    def install(
        self,
        *,
        bint accept_any=False,
        bint allow_missing_crls=False,
        bint keep_chains=False,
    ):
        """Put the callback in place, and the one that looks at messages before.

        Args:
            accept_any: take whatever certificate is presented, unverified. The
                peer still proves that it has the private key (RFC 8446, 4.4.3).
            allow_missing_crls: an authority without a CRL is no error; others are
                checked against theirs.
            keep_chains: a `Verdict` on a dialer has all that it presented, and not its
                own certificate alone, also if it is good.
        """
        cdef uintptr_t flags = 0
        if keep_chains:
            flags |= KEEP_CHAINS
        if accept_any:
            flags |= ACCEPT_ANY
        if allow_missing_crls:
            flags |= ALLOW_MISSING_CRLS
        lib.set_cert_verify_callback(self.pointer, judge, <void *>flags)
        lib.set_msg_callback(self.pointer, inspect)

    def require_alpn(self, bytes protocol not None):
        """Refuse links of clients that offer only other protocols (RFC 7301).

        Python's callback ignores what such clients offer. It stays so for servers that
        are not ours and use this context: their threads expect no verdict.

        Args:
            protocol: the one that is spoken, at most 255 bytes.
        """
        cdef bytes wire = protocols.setdefault(
            protocol, bytes((len(protocol),)) + protocol
        )
        lib.set_alpn_select_cb(
            self.pointer, select, <void *><char *>PyBytes_AS_STRING(wire)
        )

    def name_authorities(self, certificates):
        """Tell clients whose certificates are taken: the subjects of these, DER."""
        cdef bytes der
        cdef const unsigned char *at
        cdef X509 *certificate
        for der in certificates:
            at = <const unsigned char *>PyBytes_AS_STRING(der)
            certificate = lib.d2i_x509(NULL, &at, len(der))
            if certificate == NULL:
                raise ConfigError("an authority's certificate is unreadable to OpenSSL")
            added = lib.add_client_ca(self.pointer, certificate)
            lib.x509_free(certificate)
            if not added:
                raise ConfigError("OpenSSL does not take an authority's name")

    def no_session_cache(self):
        """Keep no sessions: those of TLS 1.2 would be resumed without tickets."""
        lib.ctrl(self.pointer, CTRL_SET_SESS_CACHE_MODE, SESS_CACHE_OFF, NULL)

    def no_auto_chain(self):
        """Send the chain that was loaded, nothing that was found among the trusted
        certificates: OpenSSL would search them in every handshake."""
        lib.ctrl(self.pointer, CTRL_MODE, MODE_NO_AUTO_CHAIN, NULL)

    def limit_certificates(self, long size):
        """Take no certificate message of more than `size` bytes, which OpenSSL takes
        memory for when they are announced."""
        lib.ctrl(self.pointer, CTRL_SET_MAX_CERT_LIST, size, NULL)

    def set_groups(self, bytes names not None):
        """Offer and accept these key-exchange groups only.

        Args:
            names: OpenSSL's names for them, with colons between them.

        Returns:
            Whether OpenSSL knows all of them. If not, nothing has changed.
        """
        cdef bint known = lib.ctrl(
            self.pointer, CTRL_SET_GROUPS_LIST, 0, PyBytes_AS_STRING(names)
        ) > 0
        if not known:
            # Python would tell of them where something else fails.
            lib.clear_errors()
        return known


# --- inside OpenSSL -----------------------------------------------------------


cdef void remember(
    void *parent, void *ptr, void *ad, int idx, long argl, void *argp
) noexcept nogil:
    global made, made_count
    made = parent
    made_count += 1


cdef int select(
    void *connection,
    const uint8_t **chosen,
    uint8_t *length,
    const uint8_t *offered,
    unsigned int size,
    void *arg,
) noexcept nogil:
    """Choose the protocol that is required, see `require_alpn`."""
    cdef const uint8_t *wanted = <const uint8_t *>arg
    cdef size_t at = 0
    cdef size_t part
    while at < size:
        part = offered[at]
        at += 1
        if part > size - at:
            break
        if part == wanted[0] and memcmp(offered + at, wanted + 1, part) == 0:
            chosen[0] = offered + at
            length[0] = <uint8_t>part
            return ALPN_OK
        at += part
    return ALPN_ALERT_FATAL if expected else ALPN_NOACK


cdef int judge(X509_STORE_CTX *store, void *arg) noexcept nogil:
    """Verify as OpenSSL would, or accept, and note what was found."""
    cdef uintptr_t flags = <uintptr_t>arg
    cdef int ok, code
    cdef bint noted = True
    if judged().kind:
        # OpenSSL read it all the same: see fastnode.openssl.burden.
        lib.set_error(store, V_APPLICATION_VERIFICATION)
        return 0
    ok = decide(store, <int>flags)
    code = lib.get_error(store)
    if expected:
        with gil:
            try:
                found[PyThread_get_thread_ident()] = describe(
                    store, V_OK if ok else code, <int>flags
                )
            except BaseException:
                noted = False
        if not noted:
            lib.set_error(store, V_OUT_OF_MEM)
            return 0
    if ok:
        forget_issuers(store)
    else:
        lib.set_error(store, told(code))
    return ok


cdef int decide(X509_STORE_CTX *store, int flags) noexcept nogil:
    """Verify as OpenSSL would, or accept; 1: it is good, 0: `get_error` says why."""
    if flags & ACCEPT_ANY:
        lib.set_error(store, V_OK)
        return 1
    if flags & ALLOW_MISSING_CRLS:
        lib.set_verify_cb(store, allow_missing_crl)
    return verify(store)


cdef bint verify(X509_STORE_CTX *store) noexcept nogil:
    """Verify the chain, and read revocation lists only if authorities signed the chain.

    `X509_verify_cert` reads the lists before it verifies the signatures of the chain,
    and verifies the signature of a list over all its entries. A stranger who writes an
    authority's name into a certificate of its own would cause that work. So the chain
    is verified without lists first. If only the lists are left, OpenSSL's own check of
    them follows, on the same chain.
    """
    cdef void *param = lib.get_param(store)
    cdef unsigned long lists = lib.get_flags(param)
    cdef bint verified
    lists &= FLAG_CRL_CHECK | FLAG_CRL_CHECK_ALL
    if not lists:
        return lib.verify_cert(store) > 0
    lib.clear_flags(param, lists)
    verified = lib.verify_cert(store) > 0
    lib.set_flags(param, lists)
    if verified:
        if lib.get_check_revocation(store)(store) > 0:
            return True
        if lib.get_error(store) == V_OK:
            lib.set_error(store, V_UNSPECIFIED)
        return False
    if not signed_by_authorities(store):
        return False
    # The certificate is refused in any case. Of several reasons, the one that OpenSSL
    # finds first counts, and that a certificate is revoked comes before others.
    lib.set_verified_chain(store, NULL)
    lib.set_error(store, V_OK)
    return lib.verify_cert(store) > 0


cdef bint signed_by_authorities(X509_STORE_CTX *store) noexcept nogil:
    """Whether a chain that was refused has good signatures, all of them.

    OpenSSL goes from the trust anchor to the peer's certificate, and verifies the
    signature of each certificate before its dates. Name constraints come after that.
    """
    cdef int code = lib.get_error(store)
    if code in (V_CERT_NOT_YET_VALID, V_CERT_HAS_EXPIRED):
        return lib.get_error_depth(store) == 0
    return about_constraints(code)


cdef void forget_issuers(X509_STORE_CTX *store) noexcept nogil:
    """Keep of what the peer showed only its own certificate.

    OpenSSL would hold the others, 4 KiB for each however small, as long as the
    connection: also for who shows copies, and never proves that it has the key.
    """
    cdef STACK *shown = lib.untrusted(store)
    if lib.sk_value(shown, 0) == <void *>lib.leaf(store):
        while lib.sk_num(shown) > 1:
            lib.x509_free(<X509 *>lib.sk_pop(shown))
    lib.set_verified_chain(store, NULL)


cdef int allow_missing_crl(int ok, X509_STORE_CTX *store) noexcept nogil:
    """Let pass what is in no list because its issuer has none.

    OpenSSL says the same where there is a list that it cannot use (of another key of
    that name, for some reasons only, indirect): that refuses.
    """
    cdef X509 *certificate
    cdef STACK *crls
    cdef int count
    if ok or lib.get_error(store) != V_UNABLE_TO_GET_CRL:
        return ok
    certificate = lib.current_cert(store)
    if certificate == NULL:
        return 0
    crls = lib.get1_crls(store, lib.issuer_name(certificate))
    count = lib.sk_num(crls)
    lib.sk_pop_free(crls, lib.crl_free)
    if count > 0:
        return 0
    lib.set_error(store, V_OK)
    return 1


cdef int told(int code) noexcept nogil:
    """The code by which OpenSSL chooses its alert, where its own choice misleads."""
    if code == V_CERT_NOT_YET_VALID:
        # RFC 8446, 6.2: certificate_expired is "expired or is not currently valid".
        return V_CERT_HAS_EXPIRED
    if code in (V_CRL_HAS_EXPIRED, V_CRL_NOT_YET_VALID, V_UNABLE_TO_GET_CRL):
        # Not the peer's fault: certificate_unknown, "some other issue".
        return V_UNHANDLED_CRITICAL_CRL_EXTENSION
    if about_constraints(code):
        # OpenSSL would send certificate_unknown, "some other issue". unknown_ca says
        # that the authority is not one for this certificate.
        return V_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    return code


cdef bint about_constraints(int code) noexcept nogil:
    """Whether name constraints of the chain refuse the certificate."""
    return code in (
        V_PERMITTED_VIOLATION,
        V_EXCLUDED_VIOLATION,
        V_SUBTREE_MINMAX,
        V_UNSUPPORTED_CONSTRAINT_TYPE,
        V_UNSUPPORTED_CONSTRAINT_SYNTAX,
        V_UNSUPPORTED_NAME_SYNTAX,
    )


cdef tuple describe(X509_STORE_CTX *store, int code, int flags):
    """The arguments of a `Verdict`: what was found.

    Args:
        code: as that of the `Verdict`.
        flags: what the callback is told.
    """
    cdef STACK *chain = lib.untrusted(store)
    cdef X509 *leaf = lib.leaf(store)
    cdef X509 *culprit = lib.current_cert(store)
    cdef void *connection = lib.get_ex_data(store, lib.ex_data_index())
    cdef const STACK *names = NULL
    cdef list presented = []
    cdef list authorities = []
    cdef bint serving = connection != NULL and lib.is_server(connection)
    # A dialer whose certificate is good is known by that. The others may be of any
    # content, and it has not proven yet that it has the key.
    cdef bint known_dialer = serving and code == V_OK and not flags & KEEP_CHAINS
    cdef int most = 0 if known_dialer else MOST_PRESENTED
    cdef int i, known
    if leaf != NULL:
        presented.append(der_of(leaf))
    for i in range(min(lib.sk_num(chain), most)):
        der = der_of(<X509 *>lib.sk_value(chain, i))
        if der != presented[0]:
            presented.append(der)
    if connection != NULL and not serving:
        names = lib.peer_ca_list(connection)
    if names != NULL:
        known = lib.sk_num(names)
        for i in range(min(known, MOST_AUTHORITIES)):
            der = der_of_name(lib.sk_value(names, i))
            if der is not None:
                authorities.append((der, text_of_name(lib.sk_value(names, i))))
    return (
        code,
        (<bytes>lib.error_string(code)).decode("ascii", "replace"),
        lib.get_error_depth(store) if code else 0,
        tuple(presented),
        der_of(culprit) if code and culprit != NULL else None,
        tuple(authorities),
        # Only of chains whose signatures are good: strangers cannot fill `shared`.
        constrained(store) if code == V_OK or about_constraints(code) else (),
    )


cdef tuple constrained(X509_STORE_CTX *store):
    """The certificates above the peer's own that carry name constraints, DER."""
    cdef STACK *chain = lib.chain(store)
    cdef X509 *certificate
    cdef list carriers = None
    cdef int i
    # The chain is NULL, and its size -1, where nothing was verified.
    for i in range(1, lib.sk_num(chain)):
        certificate = <X509 *>lib.sk_value(chain, i)
        if lib.find_extension(certificate, NID_NAME_CONSTRAINTS, -1) >= 0:
            if carriers is None:
                carriers = []
            carriers.append(share(der_of(certificate)))
    return () if carriers is None else tuple(carriers)


cdef bytes share(bytes der):
    """The copy of these bytes that all connections keep."""
    cdef bytes copy = shared.get(der)
    if copy is None:
        if len(shared) >= MOST_SHARED:
            shared.clear()
        shared[der] = copy = der
    return copy


cdef bytes der_of(const X509 *certificate):
    cdef int size = lib.i2d_x509(certificate, NULL)
    cdef bytes der
    cdef unsigned char *at
    if size <= 0:
        raise ValueError("OpenSSL cannot encode a certificate")
    der = PyBytes_FromStringAndSize(NULL, size)
    at = <unsigned char *>PyBytes_AS_STRING(der)
    lib.i2d_x509(certificate, &at)
    return der


cdef bytes der_of_name(const void *name):
    """A distinguished name; None if it is larger than any real one."""
    cdef int size = lib.i2d_name(name, NULL)
    cdef bytes der
    cdef unsigned char *at
    if size <= 0 or size > MOST_NAME_BYTES:
        return None
    der = PyBytes_FromStringAndSize(NULL, size)
    at = <unsigned char *>PyBytes_AS_STRING(der)
    lib.i2d_name(name, &at)
    return der


cdef str text_of_name(const void *name):
    """A distinguished name as RFC 4514 writes it, cut to NAME_TEXT_BYTES."""
    cdef char[NAME_TEXT_BYTES] text
    cdef void *bio = lib.bio_new(lib.bio_s_mem())
    cdef int size
    if bio == NULL:
        raise MemoryError()
    lib.name_print(bio, name, 0, NAME_RFC4514)
    size = lib.bio_read(bio, text, NAME_TEXT_BYTES)
    lib.bio_free(bio)
    return text[:max(size, 0)].decode("utf-8", "replace")


# --- finding the library --------------------------------------------------------


cdef object try_it():
    """Make a context; returns why that fails, or None."""
    cdef HookedContext trial = HookedContext.__new__(HookedContext)
    cdef object why = None
    try:
        trial.make(ssl.PROTOCOL_TLS_CLIENT)
    except ConfigError as error:
        why = error.message
    return why
