/* The server: one thread, one epoll, counts one-way messages and echoes calls.
 *
 * Prints its port, then "CPU-seconds messages wrong-ones" for each line on standard
 * input, until that ends.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    READS = 16,                  /* of one link in a row */
    QUEUED = 1 << 20,            /* echoes that wait; above that nothing is read */
};

struct server {
    SSL_CTX *context;
    int listener, poll;
    uint64_t messages, wrong;
};

/* They stand for the listener and standard input among the links. */
static struct link listening, input;

static int handle(struct link *link, void *state, uint32_t number,
                  const unsigned char *payload, size_t size) {
    struct server *server = state;
    if (number)
        append_frame(link, number, payload, size);
    else if (!is_right(payload, size, server->messages++))
        server->wrong++;
    return 1;
}

static void watch(struct server *server, struct link *link, int fd, int operation) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};
    if (link->watches_write) event.events = EPOLLOUT;
    if (epoll_ctl(server->poll, operation, fd, &event) < 0) die("epoll_ctl");
}

static void accept_all(struct server *server) {
    for (;;) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK);
        struct link *link;
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) return;
            die("accept4");
        }
        link = new_link(server->context, fd, 1);
        watch(server, link, fd, EPOLL_CTL_ADD);
    }
}

static void advance(struct server *server, struct link *link) {
    int reads, got = 1, written = 1, wanted = link->watches_write;
    if (wanted) written = write_out(link, link->queued);
    for (reads = 0; written && reads < READS && link->queued < QUEUED; reads++) {
        got = read_in(link, handle, server);
        if (got <= 0 || !SSL_has_pending(link->ssl)) break;
    }
    if (got < 0) {
        free_link(link);
        return;
    }
    if (written && link->queued) written = write_out(link, link->queued);
    /* What OpenSSL holds makes no event: come back as soon as one can write. */
    link->watches_write = !written || reads == READS || link->queued >= QUEUED;
    if (link->watches_write != wanted) watch(server, link, link->fd, EPOLL_CTL_MOD);
}

/* False: it has ended. */
static int report(struct server *server) {
    char line[256];
    ssize_t got = read(0, line, sizeof line);
    ssize_t at;
    for (at = 0; at < got; at++)
        if (line[at] == '\n')
            printf("%.9f %llu %llu\n", cpu_seconds(),
                   (unsigned long long)server->messages,
                   (unsigned long long)server->wrong);
    return got > 0;
}

int serve(const char *folder, int tickets) {
    struct server server = {0};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    server.context = make_context(folder, "server@127.0.0.1", 1, tickets);
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (server.listener < 0 ||
        bind(server.listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(server.listener, 1024) < 0 ||
        getsockname(server.listener, (struct sockaddr *)&address, &length) < 0)
        die("listen");
    server.poll = epoll_create1(0);
    watch(&server, &listening, server.listener, EPOLL_CTL_ADD);
    watch(&server, &input, 0, EPOLL_CTL_ADD);
    printf("%d\n", ntohs(address.sin_port));
    for (;;) {
        struct epoll_event events[EVENTS];
        int at, count = epoll_wait(server.poll, events, EVENTS, -1);
        for (at = 0; at < count; at++) {
            struct link *link = events[at].data.ptr;
            if (link == &listening)
                accept_all(&server);
            else if (link != &input)
                advance(&server, link);
            else if (!report(&server))
                return 0;
        }
    }
}
