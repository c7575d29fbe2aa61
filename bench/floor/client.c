/* The client: does what standard input says, one line at a time, and answers each.
 *
 *     open LINKS                        connect them, all usable -> ok
 *     send SIZE COUNT                   one-way over all links, all handled -> ok
 *     call SIZE COUNT OUTSTANDING       -> ok P50                    (microseconds)
 *     load SIZE COUNT RATE              -> ok P50 P90 P99 P99.9 MAX  (microseconds)
 *     handshakes AT-ONCE COUNT          -> ok
 *     cpu                               -> ok SECONDS
 */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct client {
    SSL_CTX *context;
    int port;
    struct link **links;
    size_t count;
};

/* Calls of one link: when each began, how long those took that are answered. */
struct calls {
    size_t size, total, sent, answered, awaited;
    double *began, *took;
    int again;
};

static int dial(const struct client *client, int blocking) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)client->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) die("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 &&
        errno != EINPROGRESS)
        die("connect");
    return fd;
}

static struct link *dialed(const struct client *client, int blocking) {
    return new_link(client->context, dial(client, blocking), 0);
}

static void call(struct link *link, struct calls *calls) {
    calls->began[calls->sent++] = now();
    append_frame(link, (uint32_t)calls->sent, pattern, calls->size);
}

static int answered(struct link *link, void *state, uint32_t number,
                    const unsigned char *payload, size_t size) {
    struct calls *calls = state;
    if (number != calls->answered + 1 || size != calls->size ||
        memcmp(payload, pattern, size))
        return 0;
    calls->took[calls->answered] = now() - calls->began[calls->answered];
    calls->answered++;
    if (calls->again && calls->sent < calls->total) call(link, calls);
    return 1;
}

static struct calls new_calls(size_t size, size_t total, int again) {
    struct calls calls = {.size = size, .total = total, .again = again};
    calls.began = calloc(total + 1, sizeof(double));
    calls.took = calloc(total + 1, sizeof(double));
    if (!calls.began || !calls.took) die("calloc");
    return calls;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct calls *calls, double share) {
    size_t at = (size_t)((double)calls->answered * share);
    return calls->took[at < calls->answered ? at : calls->answered - 1] * 1e6;
}

static void free_calls(struct calls *calls) {
    free(calls->began);
    free(calls->took);
}

/* So many at a time; each answer starts the next call. */
static double call_many(struct link *link, size_t size, size_t total,
                        size_t outstanding) {
    struct calls calls = new_calls(size, total, 1);
    double p50;
    while (calls.sent < outstanding && calls.sent < total) call(link, &calls);
    while (calls.answered < total) {
        if (link->queued) write_out(link, link->queued);
        if (read_in(link, answered, &calls) <= 0) die("a call got no answer");
    }
    qsort(calls.took, calls.answered, sizeof(double), compare);
    p50 = percentile(&calls, 0.5);
    free_calls(&calls);
    return p50;
}

static void open_links(struct client *client, size_t more) {
    client->links = realloc(client->links, (client->count + more) * sizeof(void *));
    if (!client->links) die("realloc");
    for (; more; more--) {
        struct link *link = dialed(client, 1);
        call_many(link, 8, 1, 1);
        client->links[client->count++] = link;
    }
}

/* Full records: what a batch leaves over stays for the next one. */
static void send_batch(struct link *link, size_t size, size_t messages) {
    for (; messages; messages--) {
        append_frame(link, 0, pattern, size);
        if (link->queued >= BATCH) write_out(link, link->queued / RECORD * RECORD);
    }
}

static void send_many(struct client *client, size_t size, size_t total) {
    size_t step = BATCH / (HEADER + size), at = 0, link;
    if (!step) step = 1;
    for (; total; at++) {
        size_t now_sent = total < step ? total : step;
        send_batch(client->links[at % client->count], size, now_sent);
        total -= now_sent;
    }
    for (link = 0; link < client->count; link++)
        append_frame(client->links[link], 1, pattern, 8);
    for (link = 0; link < client->count; link++)
        write_out(client->links[link], client->links[link]->queued);
    for (link = 0; link < client->count; link++) {
        struct calls calls = new_calls(8, 1, 0);
        while (!calls.answered)
            if (read_in(client->links[link], answered, &calls) <= 0)
                die("no answer to the call behind the messages");
        free_calls(&calls);
    }
}

/* Calls that begin at their time, whatever became of those before; a call's time runs
 * from when it was due. The thread never sleeps: no timer is that exact. */
static void load(struct link *link, size_t size, size_t total, double rate) {
    struct calls calls = new_calls(size, total, 0);
    double began = now();
    set_blocking(link->fd, 0);
    while (calls.answered < total) {
        double time = now();
        while (calls.sent < total && began + (double)calls.sent / rate <= time) {
            double due = began + (double)calls.sent / rate;
            call(link, &calls);
            calls.began[calls.sent - 1] = due;
        }
        if (link->queued) write_out(link, link->queued);
        if (read_in(link, answered, &calls) < 0) die("a call got no answer");
    }
    set_blocking(link->fd, 1);
    qsort(calls.took, calls.answered, sizeof(double), compare);
    printf("ok %.1f %.1f %.1f %.1f %.1f\n", percentile(&calls, 0.5),
           percentile(&calls, 0.9), percentile(&calls, 0.99),
           percentile(&calls, 0.999), percentile(&calls, 1.0));
    free_calls(&calls);
}

/* One connection of a handshake run: calls once, and is closed. */
struct attempt {
    struct link *link;
    struct calls calls;
};

static void begin(const struct client *client, struct attempt *attempt, int poll) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET,
                                .data.ptr = attempt};
    attempt->link = dialed(client, 0);
    attempt->calls = new_calls(8, 1, 0);
    call(attempt->link, &attempt->calls);
    if (epoll_ctl(poll, EPOLL_CTL_ADD, attempt->link->fd, &event) < 0) die("epoll");
}

/* True: its answer has come, and it is closed. */
static int advance(struct attempt *attempt) {
    struct link *link = attempt->link;
    if (!SSL_is_init_finished(link->ssl)) {
        int result = SSL_do_handshake(link->ssl);
        if (result <= 0) {
            int error = SSL_get_error(link->ssl, result);
            if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
                die("handshake");
            return 0;
        }
    }
    if (link->queued) write_out(link, link->queued);
    for (;;) {
        int got = read_in(link, answered, &attempt->calls);
        if (got < 0) die("no answer on a new link");
        if (attempt->calls.answered) break;
        if (!got) return 0;
    }
    free_link(link);
    free_calls(&attempt->calls);
    return 1;
}

static void handshakes(const struct client *client, size_t at_once, size_t total) {
    struct attempt *attempts = calloc(at_once, sizeof *attempts);
    struct epoll_event events[64];
    int poll = epoll_create1(0);
    size_t begun = 0, done = 0;
    if (!attempts || poll < 0) die("handshakes");
    for (; begun < at_once && begun < total; begun++)
        begin(client, &attempts[begun], poll);
    while (done < total) {
        int at, count = epoll_wait(poll, events, 64, -1);
        for (at = 0; at < count; at++) {
            struct attempt *attempt = events[at].data.ptr;
            if (!advance(attempt)) continue;
            done++;
            if (begun < total) {
                begin(client, attempt, poll);
                begun++;
            }
        }
    }
    close(poll);
    free(attempts);
}

int drive(const char *folder, const char *name, int port) {
    struct client client = {.port = port};
    char line[256], word[32];
    client.context = make_context(folder, name, 0, 1);
    while (fgets(line, sizeof line, stdin)) {
        size_t first = 0, second = 0;
        double third = 0;
        if (sscanf(line, "%31s %zu %zu %lf", word, &first, &second, &third) < 1)
            continue;
        if (first > MAX_PAYLOAD) return 2;
        if (!strcmp(word, "open")) {
            open_links(&client, first);
            puts("ok");
        } else if (!strcmp(word, "send")) {
            send_many(&client, first, second);
            puts("ok");
        } else if (!strcmp(word, "call")) {
            double p50 = call_many(client.links[0], first, second, (size_t)third);
            printf("ok %.3f\n", p50);
        } else if (!strcmp(word, "load")) {
            load(client.links[0], first, second, third);
        } else if (!strcmp(word, "handshakes")) {
            handshakes(&client, first, second);
            puts("ok");
        } else if (!strcmp(word, "cpu")) {
            printf("ok %.9f\n", cpu_seconds());
        } else {
            fprintf(stderr, "floor: what is %s?\n", word);
            return 2;
        }
    }
    return 0;
}
