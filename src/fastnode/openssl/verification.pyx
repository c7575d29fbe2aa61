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

Rules for whoever edits this. The callback is called inside `do_handshake`, without
the GIL, on the thread that handshakes; what it found waits in `verdicts` under that
thread until `take_verdict`. It fails closed: whatever goes wrong in it refuses.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t, uintptr_t

import ssl
import sys

from fastnode.errors import ConfigError
from fastnode.openssl.verdict import Verdict

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef extern from "dlfcn.h":
    enum:
        RTLD_LAZY
        RTLD_NOLOAD
    void *dlopen(const char *file, int mode) nogil
    void *dlsym(void *handle, const char *name) nogil

cdef extern from *:
    """
    /* The SSL_CTX objects that OpenSSL made on this thread since the last look. */
    static __thread void *fastnode_made;
    static __thread int fastnode_made_count;
    """
    void *made "fastnode_made"
    int made_count "fastnode_made_count"

cdef enum:
    # openssl/crypto.h
    EX_INDEX_SSL_CTX = 1
    # openssl/ssl.h
    CTRL_MODE = 33
    MODE_NO_AUTO_CHAIN = 8
    CTRL_SET_SESS_CACHE_MODE = 44
    SESS_CACHE_OFF = 0
    CTRL_SET_MAX_CERT_LIST = 51
    # openssl/x509.h: XN_FLAG_RFC2253
    NAME_RFC2253 = 0x1110317
    # openssl/x509_vfy.h
    V_OK = 0
    V_UNABLE_TO_GET_CRL = 3
    V_CERT_NOT_YET_VALID = 9
    V_CERT_HAS_EXPIRED = 10
    V_CRL_NOT_YET_VALID = 11
    V_CRL_HAS_EXPIRED = 12
    V_OUT_OF_MEM = 17
    V_UNHANDLED_CRITICAL_CRL_EXTENSION = 36
    # What the callback is told, in place of a pointer.
    ACCEPT_ANY = 1
    ALLOW_MISSING_CRLS = 2
    # What is kept of a peer's words: enough for any real chain and list.
    MOST_PRESENTED = 16
    MOST_AUTHORITIES = 16
    NAME_TEXT_BYTES = 256

# Opaque to us, as they are to all users of OpenSSL.
ctypedef void X509_STORE_CTX
ctypedef void X509
ctypedef void STACK

ctypedef void (*NewFunc)(
    void *parent, void *ptr, void *ad, int idx, long argl, void *argp
) noexcept nogil
ctypedef int (*CertVerify)(X509_STORE_CTX *store, void *arg) noexcept nogil
ctypedef int (*VerifyCb)(int ok, X509_STORE_CTX *store) noexcept nogil

# The functions of the library; all of them are there, or `library.missing` says why.
cdef struct Library:
    unsigned long (*version)() noexcept nogil
    int (*get_ex_new_index)(
        int index, long argl, void *argp, NewFunc made, void *dup, void *free
    ) noexcept nogil
    void (*set_cert_verify_callback)(
        void *context, CertVerify callback, void *arg
    ) noexcept nogil
    int (*get_verify_mode)(const void *context) noexcept nogil
    uint64_t (*get_options)(const void *context) noexcept nogil
    long (*ctrl)(void *context, int command, long number, void *arg) noexcept nogil
    int (*add_client_ca)(void *context, X509 *certificate) noexcept nogil
    int (*ex_data_index)() noexcept nogil
    void *(*get_ex_data)(X509_STORE_CTX *store, int index) noexcept nogil
    int (*is_server)(const void *ssl) noexcept nogil
    const STACK *(*peer_ca_list)(const void *ssl) noexcept nogil
    int (*verify_cert)(X509_STORE_CTX *store) noexcept nogil
    void (*set_verify_cb)(X509_STORE_CTX *store, VerifyCb callback) noexcept nogil
    int (*get_error)(const X509_STORE_CTX *store) noexcept nogil
    void (*set_error)(X509_STORE_CTX *store, int code) noexcept nogil
    int (*get_error_depth)(const X509_STORE_CTX *store) noexcept nogil
    X509 *(*current_cert)(const X509_STORE_CTX *store) noexcept nogil
    X509 *(*leaf)(const X509_STORE_CTX *store) noexcept nogil
    STACK *(*untrusted)(const X509_STORE_CTX *store) noexcept nogil
    const char *(*error_string)(long code) noexcept nogil
    int (*i2d_x509)(const X509 *certificate, unsigned char **out) noexcept nogil
    X509 *(*d2i_x509)(X509 **into, const unsigned char **data, long size) noexcept nogil
    void (*x509_free)(X509 *certificate) noexcept nogil
    const void *(*bio_s_mem)() noexcept nogil
    void *(*bio_new)(const void *kind) noexcept nogil
    int (*bio_read)(void *bio, void *into, int size) noexcept nogil
    int (*bio_free)(void *bio) noexcept nogil
    int (*name_print)(
        void *bio, const void *name, int indent, unsigned long flags
    ) noexcept nogil
    int (*sk_num)(const STACK *stack) noexcept nogil
    void *(*sk_value)(const STACK *stack, int at) noexcept nogil

cdef Library lib
# Why the hook cannot be used; None: it can. Unset before the first look.
cdef object reason = ...
cdef dict verdicts = {}


def why_unavailable():
    """Why this interpreter's OpenSSL cannot be reached; None where it can."""
    global reason
    if reason is ...:
        reason = load()
    return reason


def take_verdict():
    """The `Verdict` of the last verification on this thread, once; or None."""
    return verdicts.pop(PyThread_get_thread_ident(), None)


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
        global made, made_count
        made_count = 0
        self.context = ssl.SSLContext(protocol)
        if made_count != 1 or made == NULL:
            raise ConfigError(
                f"{made_count} TLS contexts appeared where one was made",
                hint="a library in this process makes TLS contexts of its own at "
                "unexpected moments",
            )
        self.pointer = made
        self.prove()

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

    def install(self, *, bint accept_any=False, bint allow_missing_crls=False):
        """Put the callback in place.

        Args:
            accept_any: take whatever certificate is presented, unverified. The
                peer still proves that it has the private key (RFC 8446, 4.4.3).
            allow_missing_crls: an authority without a CRL is no error; others are
                checked against theirs.
        """
        cdef uintptr_t flags = 0
        if accept_any:
            flags |= ACCEPT_ANY
        if allow_missing_crls:
            flags |= ALLOW_MISSING_CRLS
        lib.set_cert_verify_callback(self.pointer, judge, <void *>flags)

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
            lib.add_client_ca(self.pointer, certificate)
            lib.x509_free(certificate)

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


# --- inside OpenSSL -----------------------------------------------------------


cdef void remember(
    void *parent, void *ptr, void *ad, int idx, long argl, void *argp
) noexcept nogil:
    global made, made_count
    made = parent
    made_count += 1


cdef int judge(X509_STORE_CTX *store, void *arg) noexcept nogil:
    """Verify as OpenSSL would, or accept, and note what was found."""
    cdef uintptr_t flags = <uintptr_t>arg
    cdef int ok, code
    if flags & ACCEPT_ANY:
        lib.set_error(store, V_OK)
        ok = 1
    else:
        if flags & ALLOW_MISSING_CRLS:
            lib.set_verify_cb(store, allow_missing_crl)
        ok = lib.verify_cert(store) > 0
    code = lib.get_error(store)
    with gil:
        try:
            note(store, V_OK if ok else code)
        except Exception:
            lib.set_error(store, V_OUT_OF_MEM)
            return 0
    if not ok:
        lib.set_error(store, told(code))
    return ok


cdef int allow_missing_crl(int ok, X509_STORE_CTX *store) noexcept nogil:
    if not ok and lib.get_error(store) == V_UNABLE_TO_GET_CRL:
        lib.set_error(store, V_OK)
        return 1
    return ok


cdef int told(int code) noexcept nogil:
    """The code by which OpenSSL chooses its alert, where its own choice misleads."""
    if code == V_CERT_NOT_YET_VALID:
        # RFC 8446, 6.2: certificate_expired is "expired or is not currently valid".
        return V_CERT_HAS_EXPIRED
    if code in (V_CRL_HAS_EXPIRED, V_CRL_NOT_YET_VALID, V_UNABLE_TO_GET_CRL):
        # Not the peer's fault: certificate_unknown, "some other issue".
        return V_UNHANDLED_CRITICAL_CRL_EXTENSION
    return code


cdef int note(X509_STORE_CTX *store, int code) except -1:
    cdef STACK *chain = lib.untrusted(store)
    cdef X509 *leaf = lib.leaf(store)
    cdef X509 *culprit = lib.current_cert(store)
    cdef void *connection = lib.get_ex_data(store, lib.ex_data_index())
    cdef const STACK *names = NULL
    cdef list presented = []
    cdef list authorities = []
    cdef int i, known
    if leaf != NULL:
        presented.append(der_of(leaf))
    for i in range(min(lib.sk_num(chain), MOST_PRESENTED)):
        der = der_of(<X509 *>lib.sk_value(chain, i))
        if der != presented[0]:
            presented.append(der)
    if connection != NULL and not lib.is_server(connection):
        names = lib.peer_ca_list(connection)
    if names != NULL:
        known = lib.sk_num(names)
        for i in range(min(known, MOST_AUTHORITIES)):
            authorities.append(text_of_name(lib.sk_value(names, i)))
    verdicts[PyThread_get_thread_ident()] = Verdict(
        code,
        (<bytes>lib.error_string(code)).decode("ascii", "replace"),
        lib.get_error_depth(store) if code else 0,
        tuple(presented),
        der_of(culprit) if code and culprit != NULL else None,
        tuple(authorities),
    )
    return 0


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


cdef str text_of_name(const void *name):
    """A distinguished name as RFC 4514 writes it; anything not ASCII is escaped."""
    cdef char[NAME_TEXT_BYTES] text
    cdef void *bio = lib.bio_new(lib.bio_s_mem())
    cdef int size
    if bio == NULL:
        raise MemoryError()
    lib.name_print(bio, name, 0, NAME_RFC2253)
    size = lib.bio_read(bio, text, NAME_TEXT_BYTES)
    lib.bio_free(bio)
    return text[:max(size, 0)].decode("ascii", "replace")


# --- finding the library --------------------------------------------------------


cdef object load():
    """Find all functions; returns why not, or None."""
    cdef void *handle
    cdef void *found
    cdef void **slot
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
        return f"it is {ssl.OPENSSL_VERSION}"
    file = getattr(sys.modules["_ssl"], "__file__", None)
    if file is None:
        return "it is linked into the interpreter"
    path = file.encode(sys.getfilesystemencoding(), "surrogateescape")
    handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD)
    if handle == NULL:
        return "the ssl module's library cannot be opened again"
    # In the order of the struct's fields.
    names = (
        b"OpenSSL_version_num",
        b"CRYPTO_get_ex_new_index",
        b"SSL_CTX_set_cert_verify_callback",
        b"SSL_CTX_get_verify_mode",
        b"SSL_CTX_get_options",
        b"SSL_CTX_ctrl",
        b"SSL_CTX_add_client_CA",
        b"SSL_get_ex_data_X509_STORE_CTX_idx",
        b"X509_STORE_CTX_get_ex_data",
        b"SSL_is_server",
        b"SSL_get0_peer_CA_list",
        b"X509_verify_cert",
        b"X509_STORE_CTX_set_verify_cb",
        b"X509_STORE_CTX_get_error",
        b"X509_STORE_CTX_set_error",
        b"X509_STORE_CTX_get_error_depth",
        b"X509_STORE_CTX_get_current_cert",
        b"X509_STORE_CTX_get0_cert",
        b"X509_STORE_CTX_get0_untrusted",
        b"X509_verify_cert_error_string",
        b"i2d_X509",
        b"d2i_X509",
        b"X509_free",
        b"BIO_s_mem",
        b"BIO_new",
        b"BIO_read",
        b"BIO_free",
        b"X509_NAME_print_ex",
        b"OPENSSL_sk_num",
        b"OPENSSL_sk_value",
    )
    if sizeof(Library) != len(names) * sizeof(void *):
        return "its functions were miscounted"
    slot = <void **>&lib
    for name in names:
        found = dlsym(handle, name)
        if found == NULL:
            return f"{name.decode()} is not to be seen in it"
        slot[0] = found
        slot += 1
    if lib.version() != <unsigned long>ssl.OPENSSL_VERSION_NUMBER:
        return "another version of it answers"
    if lib.get_ex_new_index(EX_INDEX_SSL_CTX, 0, NULL, remember, NULL, NULL) < 0:
        return "it gives no ex-data index"
    return None
