"""The functions of the libssl that Python's `ssl` module uses, looked up in it.

The file of the `_ssl` module is opened again without loading anything (RTLD_NOLOAD); a
look-up through that handle goes to what it is linked with, and to nothing else.
"""

import ssl
import sys

cdef extern from "dlfcn.h":
    enum:
        RTLD_LAZY
        RTLD_NOLOAD
    void *dlopen(const char *file, int mode) nogil
    void *dlsym(void *handle, const char *name) nogil

cdef enum:
    # openssl/crypto.h
    EX_INDEX_SSL_CTX = 1

# Functions of newer versions. They may be NULL, so check that before a call.
cdef frozenset OPTIONAL = frozenset([b"SSL_group_to_name"])


cdef object load(NewFunc made):
    """Find all functions of `lib`; `made` will be called with each new `SSL_CTX`.

    Returns why that cannot be, or None.
    """
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
        b"SSL_CTX_set_alpn_select_cb",
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
        b"X509_STORE_CTX_get0_param",
        b"X509_VERIFY_PARAM_get_flags",
        b"X509_VERIFY_PARAM_set_flags",
        b"X509_VERIFY_PARAM_clear_flags",
        b"X509_STORE_CTX_get_check_revocation",
        b"X509_STORE_CTX_get_error",
        b"X509_STORE_CTX_set_error",
        b"X509_STORE_CTX_get_error_depth",
        b"X509_STORE_CTX_get_current_cert",
        b"X509_STORE_CTX_get0_cert",
        b"X509_STORE_CTX_get0_untrusted",
        b"X509_STORE_CTX_get0_chain",
        b"X509_get_ext_by_NID",
        b"X509_verify_cert_error_string",
        b"i2d_X509",
        b"d2i_X509",
        b"X509_free",
        b"EVP_PKEY_set_type",
        b"EVP_PKEY_free",
        b"BIO_s_mem",
        b"BIO_new",
        b"BIO_read",
        b"BIO_free",
        b"i2d_X509_NAME",
        b"X509_get_issuer_name",
        b"X509_STORE_CTX_get1_crls",
        b"X509_CRL_free",
        b"OPENSSL_sk_pop_free",
        b"X509_NAME_print_ex",
        b"OPENSSL_sk_num",
        b"OPENSSL_sk_value",
        b"OPENSSL_sk_pop",
        b"X509_STORE_CTX_set0_verified_chain",
        b"SSL_get_SSL_CTX",
        b"SSL_get_ex_data",
        b"SSL_get_rbio",
        b"SSL_get_wbio",
        b"SSL_set0_rbio",
        b"SSL_set0_wbio",
        b"SSL_read_ex",
        b"SSL_write_ex",
        b"SSL_has_pending",
        b"SSL_ctrl",
        b"SSL_version",
        b"SSL_key_update",
        b"SSL_get_error",
        b"ERR_peek_error",
        b"ERR_peek_last_error",
        b"ERR_clear_error",
        b"ERR_reason_error_string",
        b"BIO_get_new_index",
        b"BIO_meth_new",
        b"BIO_meth_set_read_ex",
        b"BIO_meth_set_write_ex",
        b"BIO_meth_set_ctrl",
        b"BIO_set_data",
        b"BIO_get_data",
        b"BIO_up_ref",
        b"BIO_set_flags",
        b"BIO_clear_flags",
        b"SSL_CTX_set_msg_callback",
        b"SSL_set_msg_callback",
        b"X509_STORE_CTX_new",
        b"X509_STORE_CTX_init",
        b"X509_STORE_CTX_free",
        b"X509_STORE_CTX_set_default",
        b"X509_STORE_CTX_set_ex_data",
        b"X509_VERIFY_PARAM_set1",
        b"X509_VERIFY_PARAM_set_auth_level",
        b"SSL_get0_param",
        b"SSL_get_security_level",
        b"SSL_CTX_get_cert_store",
        b"OPENSSL_sk_new_null",
        b"OPENSSL_sk_push",
        b"SSL_group_to_name",
    )
    if sizeof(Library) != len(names) * sizeof(void *):
        return "its functions were miscounted"
    slot = <void **>&lib
    for name in names:
        found = dlsym(handle, name)
        if found == NULL and name not in OPTIONAL:
            return f"{name.decode()} is not to be seen in it"
        slot[0] = found
        slot += 1
    if lib.version() != <unsigned long>ssl.OPENSSL_VERSION_NUMBER:
        return "another version of it answers"
    if lib.get_ex_new_index(EX_INDEX_SSL_CTX, 0, NULL, made, NULL, NULL) < 0:
        return "it gives no ex-data index"
    return None
