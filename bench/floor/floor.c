/* floor server FOLDER VARIANT | floor client FOLDER VARIANT NAME PORT | floor version
 *
 * VARIANT: default, or no-tickets: the server sends no session tickets.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

unsigned char pattern[MAX_PAYLOAD];

void die(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double clock_seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double now(void) { return clock_seconds(CLOCK_MONOTONIC); }

double cpu_seconds(void) { return clock_seconds(CLOCK_PROCESS_CPUTIME_ID); }

void set_blocking(int fd, int blocking) {
    int flags = fcntl(fd, F_GETFL);
    flags = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (flags < 0 || fcntl(fd, F_SETFL, flags) < 0) die("fcntl");
}

SSL_CTX *make_context(const char *folder, const char *name, int server, int tickets) {
    SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    char path[4096];
    int verify = SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
    if (!context) die("SSL_CTX_new");
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, verify, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    /* A record comes with one system call, not two. */
    SSL_CTX_set_read_ahead(context, 1);
    if (server && !tickets) SSL_CTX_set_num_tickets(context, 0);
    snprintf(path, sizeof path, "%s/ca.pem", folder);
    if (!SSL_CTX_load_verify_locations(context, path, NULL)) die(path);
    snprintf(path, sizeof path, "%s/%s.pem", folder, name);
    if (!SSL_CTX_use_certificate_chain_file(context, path)) die(path);
    snprintf(path, sizeof path, "%s/%s-key.pem", folder, name);
    if (!SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM)) die(path);
    return context;
}

struct link *new_link(SSL_CTX *context, int fd, int server) {
    struct link *link = calloc(1, sizeof *link);
    int on = 1;
    if (!link) die("calloc");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    link->fd = fd;
    link->ssl = SSL_new(context);
    if (!link->ssl || !SSL_set_fd(link->ssl, fd)) die("SSL_new");
    if (server) {
        SSL_set_accept_state(link->ssl);
    } else {
        /* As Python's `server_hostname`. */
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(link->ssl), "127.0.0.1");
        SSL_set_connect_state(link->ssl);
    }
    return link;
}

/* Receive buffers that no link needs at the moment. One is enough for one link. */
static unsigned char *spare[64];
static size_t spares;

static void give_back(struct link *link) {
    if (!link->in) return;
    if (spares < sizeof spare / sizeof *spare)
        spare[spares++] = link->in;
    else
        free(link->in);
    link->in = NULL;
    link->start = link->end = 0;
}

void free_link(struct link *link) {
    give_back(link);
    SSL_shutdown(link->ssl);
    SSL_free(link->ssl);
    close(link->fd);
    free(link->out);
    free(link);
}

void append(struct link *link, const void *data, size_t size) {
    if (link->queued + size > link->capacity) {
        link->capacity = 2 * (link->queued + size);
        link->out = realloc(link->out, link->capacity);
        if (!link->out) die("realloc");
    }
    memcpy(link->out + link->queued, data, size);
    link->queued += size;
}

static void put32(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 24);
    at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8);
    at[3] = (unsigned char)value;
}

static uint32_t get32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

void append_frame(struct link *link, uint32_t number, const void *payload,
                  size_t size) {
    unsigned char header[HEADER];
    put32(header, (uint32_t)size);
    put32(header + 4, number);
    append(link, header, HEADER);
    append(link, payload, size);
}

static int would_block(struct link *link, int result) {
    int error = SSL_get_error(link->ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

int write_out(struct link *link, size_t size) {
    size_t done = 0;
    int written = 1;
    while (done < size) {
        written = SSL_write(link->ssl, link->out + done, (int)(size - done));
        if (written <= 0) break;
        done += (size_t)written;
    }
    if (done) memmove(link->out, link->out + done, link->queued - done);
    link->queued -= done;
    if (written > 0) return 1;
    if (!would_block(link, written)) die("SSL_write");
    return 0;
}

/* Make room behind what is there. The beginning is used again as soon as the next
 * frame would go beyond one batch, so that the buffer stays in the cache. */
static void make_room(struct link *link) {
    size_t left = link->end - link->start;
    size_t need = left >= HEADER ? HEADER + get32(link->in + link->start) : RECORD;
    if (link->start && (!left || link->start + need + RECORD > BATCH)) {
        memmove(link->in, link->in + link->start, left);
        link->start = 0;
        link->end = left;
    }
}

int read_in(struct link *link, frame_handler handle, void *state) {
    int got;
    if (!link->in) {
        link->in = spares ? spare[--spares] : malloc(BUFFER);
        if (!link->in) die("malloc");
    }
    make_room(link);
    got = SSL_read(link->ssl, link->in + link->end, RECORD);
    if (got <= 0) {
        if (link->start == link->end) give_back(link);
        return would_block(link, got) ? 0 : -1;
    }
    link->end += (size_t)got;
    while (link->end - link->start >= HEADER) {
        const unsigned char *frame = link->in + link->start;
        size_t size = get32(frame);
        if (size > MAX_PAYLOAD) return -1;
        if (link->end - link->start < HEADER + size) break;
        if (!handle(link, state, get32(frame + 4), frame + HEADER, size)) return -1;
        link->start += HEADER + size;
    }
    if (link->start == link->end) give_back(link);
    return 1;
}

int is_right(const unsigned char *payload, size_t size, uint64_t number) {
    size_t last = size - EDGE;
    if (size <= WHOLE || number % EVERY == 0) return !memcmp(payload, pattern, size);
    return !memcmp(payload, pattern, EDGE) &&
           !memcmp(payload + last, pattern + last, EDGE);
}

int main(int count, char **arguments) {
    int tickets;
    size_t at;
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (at = 0; at < MAX_PAYLOAD; at++) pattern[at] = (unsigned char)(at % 251);
    tickets = count > 3 && strcmp(arguments[3], "no-tickets") != 0;
    if (count == 2 && !strcmp(arguments[1], "version")) {
        puts(OpenSSL_version(OPENSSL_VERSION));
        return 0;
    }
    if (count == 4 && !strcmp(arguments[1], "server"))
        return serve(arguments[2], tickets);
    if (count == 6 && !strcmp(arguments[1], "client"))
        return drive(arguments[2], arguments[4], atoi(arguments[5]));
    fprintf(stderr, "see floor.c\n");
    return 2;
}
