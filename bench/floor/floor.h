/* The floor: what the machine and OpenSSL do without Python and without a framework.
 *
 * A frame is a header of 8 bytes, the length of the payload and a number, both big
 * endian, and the payload. Number 0 is a one-way message; any other is a call, which
 * the server echoes.
 */
#ifndef FLOOR_H
#define FLOOR_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEADER = 8,
    RECORD = 16384,              /* plaintext of a full TLS record */
    BATCH = 4 * RECORD,          /* what is gathered before it is written */
    MAX_PAYLOAD = 1 << 20,
    WHOLE = 1024,                /* payloads up to this are compared in full */
    EDGE = 32,                   /* of larger ones: so much at both ends of each, */
    EVERY = 16,                  /* and all of every so manieth */
    BUFFER = HEADER + MAX_PAYLOAD + 2 * BATCH,
};

/* One side of a connection. Its buffers are lent to it while they hold something. */
struct link {
    SSL *ssl;
    int fd;
    unsigned char *in;
    size_t start, end;
    unsigned char *out;
    size_t queued, capacity;
    int watches_write;
};

/* Receives a frame; false: what came is wrong. */
typedef int (*frame_handler)(struct link *link, void *state, uint32_t number,
                             const unsigned char *payload, size_t size);

extern unsigned char pattern[MAX_PAYLOAD];

void die(const char *what);
double now(void);
double cpu_seconds(void);
void set_blocking(int fd, int blocking);

SSL_CTX *make_context(const char *folder, const char *name, int server, int tickets);
struct link *new_link(SSL_CTX *context, int fd, int server);
void free_link(struct link *link);

void append(struct link *link, const void *data, size_t size);
void append_frame(struct link *link, uint32_t number, const void *payload,
                  size_t size);
/* Write `size` bytes of what is queued, or, nonblocking, what can be: 1 all, 0 not. */
int write_out(struct link *link, size_t size);
/* Read once and hand over the frames: 1 read, 0 nothing there, -1 the end. */
int read_in(struct link *link, frame_handler handle, void *state);
/* Whether a one-way payload is as it should be. */
int is_right(const unsigned char *payload, size_t size, uint64_t number);

int serve(const char *folder, int tickets);
int drive(const char *folder, const char *name, int port);

#endif
