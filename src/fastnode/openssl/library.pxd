from libc.stdint cimport uint8_t, uint64_t

# Opaque to us, as they are to all users of OpenSSL.
ctypedef void X509_STORE_CTX
ctypedef void X509
ctypedef void STACK

ctypedef void (*NewFunc)(
    void *parent, void *ptr, void *ad, int idx, long argl, void *argp
) noexcept nogil
ctypedef int (*CertVerify)(X509_STORE_CTX *store, void *arg) noexcept nogil
ctypedef void (*MsgCallback)(
    int writing,
    int version,
    int kind,
    const void *data,
    size_t size,
    void *connection,
    void *arg,
) noexcept nogil
ctypedef int (*AlpnSelect)(
    void *connection,
    const uint8_t **chosen,
    uint8_t *length,
    const uint8_t *offered,
    unsigned int size,
    void *arg,
) noexcept nogil
ctypedef void (*FreeFunc)(void *object) noexcept nogil
ctypedef int (*VerifyCb)(int ok, X509_STORE_CTX *store) noexcept nogil
ctypedef int (*CheckRevocation)(X509_STORE_CTX *store) noexcept nogil
ctypedef int (*BioRead)(void *bio, char *into, size_t size, size_t *got) noexcept nogil
ctypedef int (*BioWrite)(
    void *bio, const char *data, size_t size, size_t *taken
) noexcept nogil
ctypedef long (*BioCtrl)(void *bio, int command, long number, void *arg) noexcept nogil

# The functions that are used, once `load` has found them.
cdef struct Library:
    unsigned long (*version)() noexcept nogil
    int (*get_ex_new_index)(
        int index, long argl, void *argp, NewFunc made, void *dup, void *free
    ) noexcept nogil
    void (*set_cert_verify_callback)(
        void *context, CertVerify callback, void *arg
    ) noexcept nogil
    void (*set_alpn_select_cb)(
        void *context, AlpnSelect callback, void *arg
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
    void *(*get_param)(const X509_STORE_CTX *store) noexcept nogil
    unsigned long (*get_flags)(const void *param) noexcept nogil
    int (*set_flags)(void *param, unsigned long flags) noexcept nogil
    int (*clear_flags)(void *param, unsigned long flags) noexcept nogil
    CheckRevocation (*get_check_revocation)(
        const X509_STORE_CTX *store
    ) noexcept nogil
    int (*get_error)(const X509_STORE_CTX *store) noexcept nogil
    void (*set_error)(X509_STORE_CTX *store, int code) noexcept nogil
    int (*get_error_depth)(const X509_STORE_CTX *store) noexcept nogil
    X509 *(*current_cert)(const X509_STORE_CTX *store) noexcept nogil
    X509 *(*leaf)(const X509_STORE_CTX *store) noexcept nogil
    STACK *(*untrusted)(const X509_STORE_CTX *store) noexcept nogil
    STACK *(*chain)(const X509_STORE_CTX *store) noexcept nogil
    int (*find_extension)(const X509 *certificate, int kind, int after) noexcept nogil
    const char *(*error_string)(long code) noexcept nogil
    int (*i2d_x509)(const X509 *certificate, unsigned char **out) noexcept nogil
    X509 *(*d2i_x509)(X509 **into, const unsigned char **data, long size) noexcept nogil
    void (*x509_free)(X509 *certificate) noexcept nogil
    int (*pkey_set_type)(void *key, int kind) noexcept nogil
    void (*pkey_free)(void *key) noexcept nogil
    const void *(*bio_s_mem)() noexcept nogil
    void *(*bio_new)(const void *kind) noexcept nogil
    int (*bio_read)(void *bio, void *into, int size) noexcept nogil
    int (*bio_free)(void *bio) noexcept nogil
    int (*i2d_name)(const void *name, unsigned char **out) noexcept nogil
    void *(*issuer_name)(const X509 *certificate) noexcept nogil
    STACK *(*get1_crls)(X509_STORE_CTX *store, void *name) noexcept nogil
    void (*crl_free)(void *crl) noexcept nogil
    void (*sk_pop_free)(STACK *stack, FreeFunc free) noexcept nogil
    int (*name_print)(
        void *bio, const void *name, int indent, unsigned long flags
    ) noexcept nogil
    int (*sk_num)(const STACK *stack) noexcept nogil
    void *(*sk_value)(const STACK *stack, int at) noexcept nogil
    void *(*sk_pop)(STACK *stack) noexcept nogil
    void (*set_verified_chain)(X509_STORE_CTX *store, STACK *chain) noexcept nogil
    void *(*get_ssl_ctx)(const void *ssl) noexcept nogil
    void *(*get_ssl_ex_data)(const void *ssl, int index) noexcept nogil
    void *(*get_rbio)(const void *ssl) noexcept nogil
    void *(*get_wbio)(const void *ssl) noexcept nogil
    void (*set_rbio)(void *ssl, void *bio) noexcept nogil
    void (*set_wbio)(void *ssl, void *bio) noexcept nogil
    int (*read)(void *ssl, void *into, size_t size, size_t *got) noexcept nogil
    int (*write)(void *ssl, const void *data, size_t size, size_t *taken) noexcept nogil
    int (*has_pending)(const void *ssl) noexcept nogil
    long (*ssl_ctrl)(void *ssl, int command, long number, void *arg) noexcept nogil
    int (*get_version)(const void *ssl) noexcept nogil
    int (*key_update)(void *ssl, int kind) noexcept nogil
    int (*outcome)(const void *ssl, int returned) noexcept nogil
    unsigned long (*peek_error)() noexcept nogil
    unsigned long (*peek_last_error)() noexcept nogil
    void (*clear_errors)() noexcept nogil
    const char *(*reason_string)(unsigned long code) noexcept nogil
    int (*bio_new_index)() noexcept nogil
    void *(*bio_meth_new)(int kind, const char *name) noexcept nogil
    int (*bio_meth_set_read)(void *method, BioRead read) noexcept nogil
    int (*bio_meth_set_write)(void *method, BioWrite write) noexcept nogil
    int (*bio_meth_set_ctrl)(void *method, BioCtrl ctrl) noexcept nogil
    void (*bio_set_data)(void *bio, void *data) noexcept nogil
    void *(*bio_get_data)(void *bio) noexcept nogil
    int (*bio_up_ref)(void *bio) noexcept nogil
    void (*bio_set_flags)(void *bio, int flags) noexcept nogil
    void (*bio_clear_flags)(void *bio, int flags) noexcept nogil
    void (*set_msg_callback)(void *context, MsgCallback callback) noexcept nogil
    void (*ssl_set_msg_callback)(void *ssl, MsgCallback callback) noexcept nogil
    X509_STORE_CTX *(*store_ctx_new)() noexcept nogil
    int (*store_ctx_init)(
        X509_STORE_CTX *store, void *authorities, X509 *leaf, STACK *shown
    ) noexcept nogil
    void (*store_ctx_free)(X509_STORE_CTX *store) noexcept nogil
    int (*store_ctx_set_default)(
        X509_STORE_CTX *store, const char *name
    ) noexcept nogil
    int (*set_ex_data)(X509_STORE_CTX *store, int index, void *data) noexcept nogil
    int (*param_set1)(void *param, const void *other) noexcept nogil
    void (*set_auth_level)(void *param, int level) noexcept nogil
    void *(*get_ssl_param)(void *ssl) noexcept nogil
    int (*get_security_level)(const void *ssl) noexcept nogil
    void *(*get_cert_store)(const void *context) noexcept nogil
    STACK *(*sk_new_null)() noexcept nogil
    int (*sk_push)(STACK *stack, const void *value) noexcept nogil
    # NULL before OpenSSL 3.0.
    const char *(*group_name)(void *ssl, int group) noexcept nogil


cdef Library lib

cdef object load(NewFunc made)
