/* What sending by kernel TLS would save: the CPU time of the sender of one flush.
 *
 * Three ways, in turn and in changing order, over three connections on loopback, TLS 1.3,
 * TLS_AES_256_GCM_SHA384:
 *
 *   plain   one write() of the bytes, no TLS: what the socket itself costs
 *   user    as fastnode sends: SSL_write of full records into memory, then one write()
 *   kernel  one write() of the plaintext to a socket to which OpenSSL has given the keys
 *           (TCP_ULP "tls", TLS_TX)
 *
 * The other process decrypts with OpenSSL in all of them, and compares every byte.
 * Times are CLOCK_PROCESS_CPUTIME_ID, in ns; under `qemu -icount shift=0` one of its ns
 * is one instruction. What reading the clock takes is subtracted.
 *
 * Usage: kernel_tls FLUSHES. Prints a line of JSON for each size, the medians of sender
 * and of both processes, and one that says whether the kernel takes another key, which
 * TLS 1.3 needs after 2^24.5 records (RFC 8446, 5.5). Exit status 3: this kernel or this
 * OpenSSL cannot do it, and why.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { CANNOT = 3, RECORD = 16 << 10, MOST = 256 << 10, WARM_UP = 20 };
enum way { PLAIN, USER, KERNEL, WAYS };

static const char *const names[] = {"plain", "user", "kernel"};
static const int sizes[] = {64, 1 << 10, 16 << 10, 64 << 10, 256 << 10};

/* What the sender asks of the receiver before each flush. */
struct order {
    enum way way;
    int size;
};

/* Of the receiver, for the flush that it has just read. */
struct shared {
    volatile int64_t cpu;
};

static struct shared *shared;
static unsigned char *sent, *received, *ciphertext;
static size_t used;
static int connections[WAYS];
static SSL *tls[WAYS];
static int to_receiver[2], to_sender[2];
static int64_t clock_cost;

static void die(const char *what) {
    fprintf(stderr, "kernel_tls: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void cannot(const char *why) {
    fprintf(stderr, "kernel_tls: %s\n", why);
    exit(CANNOT);
}

static int64_t cpu_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median(int64_t *values, int count) {
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

static void put(int pipe, const void *data, size_t size) {
    if (write(pipe, data, size) != (ssize_t)size)
        die("pipe");
}

static void get(int pipe, void *into, size_t size) {
    if (read(pipe, into, size) != (ssize_t)size)
        die("the other process is gone");
}

/* --- a BIO that writes into memory, as fastnode's does ------------------------------ */

static int memory_write(BIO *bio, const char *data, int size) {
    (void)bio;
    memcpy(ciphertext + used, data, size);
    used += size;
    return size;
}

static long memory_ctrl(BIO *bio, int command, long number, void *arg) {
    (void)bio, (void)number, (void)arg;
    return command == BIO_CTRL_FLUSH;
}

static BIO *memory_bio(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "memory");
    BIO *bio;
    BIO_meth_set_write(method, memory_write);
    BIO_meth_set_ctrl(method, memory_ctrl);
    bio = BIO_new(method);
    BIO_set_init(bio, 1);
    return bio;
}

/* --- connections -------------------------------------------------------------------- */

static SSL_CTX *server_context(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    X509 *certificate = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    if (!X509_sign(certificate, key, EVP_sha256()) ||
        SSL_CTX_use_certificate(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey(context, key) != 1)
        die("certificate");
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384");
    SSL_CTX_set_num_tickets(context, 0);
    return context;
}

static void at_once(int connection) {
    int on = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void accept_all(int listener) {
    SSL_CTX *context = server_context();
    for (enum way way = 0; way < WAYS; way++) {
        int connection = connections[way] = accept(listener, NULL, NULL);
        if (connection < 0)
            die("accept");
        at_once(connection);
        if (way == PLAIN)
            continue;
        tls[way] = SSL_new(context);
        if (way == KERNEL)
            SSL_set_options(tls[way], SSL_OP_ENABLE_KTLS);
        SSL_set_fd(tls[way], connection);
        if (SSL_accept(tls[way]) != 1)
            die("SSL_accept");
        if (way == USER)
            SSL_set0_wbio(tls[way], memory_bio());
        else if (!BIO_get_ktls_send(SSL_get_wbio(tls[way])))
            cannot("this OpenSSL was built without kernel TLS, or does not give it the "
                   "keys of TLS 1.3");
    }
}

static void connect_all(const struct sockaddr_in *address) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    for (enum way way = 0; way < WAYS; way++) {
        int connection = connections[way] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection, (const struct sockaddr *)address, sizeof *address))
            die("connect");
        at_once(connection);
        if (way == PLAIN)
            continue;
        tls[way] = SSL_new(context);
        SSL_set_fd(tls[way], connection);
        if (SSL_connect(tls[way]) != 1)
            die("SSL_connect");
    }
}

/* --- the two processes -------------------------------------------------------------- */

static void receive(const struct sockaddr_in *address) {
    struct order order;
    connect_all(address);
    while (read(to_receiver[0], &order, sizeof order) == sizeof order) {
        int64_t began = cpu_time();
        for (int at = 0; at < order.size;) {
            int got = order.way == PLAIN
                          ? (int)read(connections[PLAIN], received + at, order.size - at)
                          : SSL_read(tls[order.way], received + at, order.size - at);
            if (got <= 0)
                die("the stream has ended");
            at += got;
        }
        shared->cpu = cpu_time() - began - clock_cost;
        if (memcmp(received, sent, order.size))
            die("the contents are wrong");
        memset(received, 0, order.size);
        put(to_sender[1], "", 1);
    }
    exit(0);
}

static int64_t send_flush(enum way way, int size) {
    const unsigned char *data = sent;
    size_t count = size;
    int64_t began = cpu_time();
    if (way == USER) {
        used = 0;
        for (int at = 0; at < size; at += RECORD) {
            int part = size - at < RECORD ? size - at : RECORD;
            if (SSL_write(tls[USER], sent + at, part) != part)
                die("SSL_write");
        }
        data = ciphertext;
        count = used;
    }
    while (count) {
        ssize_t taken = write(connections[way], data, count);
        if (taken < 0)
            die("write");
        data += taken;
        count -= taken;
    }
    return cpu_time() - began - clock_cost;
}

static void measure(int size, int flushes) {
    int64_t *sender[WAYS], *both[WAYS];
    char done;
    for (enum way way = 0; way < WAYS; way++) {
        sender[way] = calloc(flushes, sizeof *sender[way]);
        both[way] = calloc(flushes, sizeof *both[way]);
    }
    for (int turn = -WARM_UP; turn < flushes; turn++)
        for (int place = 0, first = rand(); place < WAYS; place++) {
            enum way way = (unsigned)(first + place) % WAYS;
            struct order order = {way, size};
            int64_t took;
            put(to_receiver[1], &order, sizeof order);
            /* Until it sleeps: a wake-up is part of every flush. */
            usleep(500 + rand() % 1000);
            took = send_flush(way, size);
            get(to_sender[0], &done, 1);
            if (turn >= 0) {
                sender[way][turn] = took;
                both[way][turn] = took + shared->cpu;
            }
        }
    printf("{\"size\": %d", size);
    for (enum way way = 0; way < WAYS; way++)
        printf(", \"%s\": [%lld, %lld]", names[way],
               (long long)median(sender[way], flushes),
               (long long)median(both[way], flushes));
    printf("}\n");
    fflush(stdout);
}

static int listen_on_loopback(struct sockaddr_in *address) {
    socklen_t size = sizeof *address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET};
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)address, size) || listen(listener, WAYS) ||
        getsockname(listener, (struct sockaddr *)address, &size))
        die("listen");
    return listener;
}

/* Whether the kernel has it; on a connection, which it wants. */
static void look_for_kernel_tls(int listener, const struct sockaddr_in *address) {
    int trial = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(trial, (const struct sockaddr *)address, sizeof *address))
        die("connect");
    if (setsockopt(trial, IPPROTO_TCP, TCP_ULP, "tls", 4)) {
        fprintf(stderr, "kernel_tls: TCP_ULP: %s\n", strerror(errno));
        cannot("this kernel has no TLS (modprobe tls)");
    }
    close(accept(listener, NULL, NULL));
    close(trial);
}

/* The last thing that is done: the receiver would not know the key. */
static void renew_key(void) {
    struct tls12_crypto_info_aes_gcm_256 key = {
        .info = {TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_256}};
    int refused =
        setsockopt(connections[KERNEL], SOL_TLS, TLS_TX, &key, sizeof key);
    printf("{\"new key\": \"%s\"}\n", refused ? strerror(errno) : "taken");
}

int main(int count, char **arguments) {
    int flushes = count > 1 ? atoi(arguments[1]) : 200;
    struct sockaddr_in address;
    int64_t costs[101];
    int listener = listen_on_loopback(&address);
    look_for_kernel_tls(listener, &address);
    for (int at = 0; at < 101; at++) {
        int64_t began = cpu_time();
        costs[at] = cpu_time() - began;
    }
    clock_cost = median(costs, 101);
    sent = malloc(MOST);
    received = calloc(1, MOST);
    ciphertext = calloc(1, MOST + MOST / 8);
    for (int at = 0; at < MOST; at++)
        sent[at] = rand() >> 8;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (flushes < 1 || shared == MAP_FAILED || pipe(to_receiver) || pipe(to_sender))
        die("start");
    if (!fork()) {
        close(to_receiver[1]);
        close(to_sender[0]);
        receive(&address);
    }
    close(to_receiver[0]);
    close(to_sender[1]);
    accept_all(listener);
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++)
        measure(sizes[at], flushes);
    renew_key();
    close(to_receiver[1]);
    wait(NULL);
    return 0;
}
