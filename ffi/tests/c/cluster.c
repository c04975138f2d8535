#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void expect(galerna_result_t expected, galerna_result_t got, const char *call, const char *file, int line)
{
    if (got != expected) {
        fprintf(stderr, "%s:%d: %s\n  expected: %s\n  got:      %s\n  last error: %s\n", file, line, call,
                galerna_strerror(expected), galerna_strerror(got), galerna_last_error());
        exit(1);
    }
}

void expect_text(const char *part)
{
    const char *text = galerna_last_error();
    if (strstr(text, part) == NULL) {
        fprintf(stderr, "the last error does not name `%s`: %s\n", part, text);
        exit(1);
    }
}

static void append(char *text, size_t capacity, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(text + used, capacity - used, format, arguments);
    va_end(arguments);
    CHECK(written >= 0 && (size_t)written < capacity - used);
}

/* Returns a port on which no process listens, outside the range from which the system takes ports for outgoing
 * connections. The open socket keeps the port from being assigned again. */
static unsigned free_port(int *socket_out)
{
    static atomic_uint next;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (unsigned tries = 0; tries < 20000; tries++) {
        unsigned port = 10000 + ((unsigned)getpid() * 977 + atomic_fetch_add(&next, 1)) % 20000;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0);
        address.sin_port = htons((uint16_t)port);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            *socket_out = fd;
            return port;
        }
        close(fd);
    }
    CHECK(!"a free port");
    return 0;
}

char *make_config(const char *fabric, unsigned members, unsigned join_timeout_ms)
{
    const char *patient = "failure_timeout_ms = 60000\npartition_timeout_ms = 60000\n";
    return make_config_with(fabric, members, join_timeout_ms, patient);
}

char *make_config_with(const char *fabric, unsigned members, unsigned join_timeout_ms, const char *keys)
{
    static unsigned number;
    size_t capacity = 4096;
    char *text = calloc(1, capacity);
    int sockets[MEMBERS_MOST];
    const char *folder = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    CHECK(text != NULL && members <= MEMBERS_MOST);
    number++;
    append(text, capacity, "group = \"c-test\"\nfabric = \"%s\"\njoin_timeout_ms = %u\n", fabric, join_timeout_ms);
    append(text, capacity, "ring_bytes = 16384\nmax_message_bytes = 4000\n%s", keys);
    for (unsigned i = 0; i < members; i++) {
        unsigned port = free_port(&sockets[i]);
        append(text, capacity, "[[members]]\nid = %u\naddress = ", i + 1);
        if (strcmp(fabric, "tcp") == 0) {
            append(text, capacity, "\"127.0.0.1:%u\"\n", port);
        } else {
            append(text, capacity, "\"unix:%s/galerna-c-%ld-%u-%u.sock\"\n", folder, (long)getpid(), number, i);
        }
    }
    for (unsigned i = 0; i < members; i++) {
        close(sockets[i]);
    }
    return text;
}

galerna_result_t join(const char *toml, uint32_t id, const galerna_callbacks_t *callbacks, galerna_drive_t drive,
                      galerna_group_t **out)
{
    galerna_config_t *config;
    OK(galerna_config_from_toml(toml, &config));
    OK(galerna_config_set_member(config, id));
    galerna_result_t result = galerna_group_join(config, callbacks, drive, out);
    galerna_config_free(config);
    return result;
}

void member_deliver(void *context, const galerna_message_t *message)
{
    member_t *member = context;
    const unsigned char *bytes = message->payload;
    CHECK(message->size == sizeof *message);
    pthread_mutex_lock(&member->lock);
    CHECK(message->view == member->view);
    member->delivered_in = message->view;
    member->delivered++;
    member->digest = member->digest * 1099511628211u + message->sender;
    for (size_t i = 0; i < message->length; i++) {
        member->digest = member->digest * 1099511628211u + bytes[i];
    }
    pthread_mutex_unlock(&member->lock);
}

void member_stopped(void *context, galerna_result_t code, const char *text)
{
    member_t *member = context;
    pthread_mutex_lock(&member->lock);
    CHECK(member->stopped == GALERNA_OK);
    member->stopped = code;
    snprintf(member->reason, sizeof member->reason, "%s", text);
    pthread_mutex_unlock(&member->lock);
}

static void record(ids_t *ids, const uint32_t *from, size_t count)
{
    CHECK(from != NULL && count <= MEMBERS_MOST);
    ids->count = count;
    memcpy(ids->ids, from, count * sizeof *from);
}

void member_view(void *context, const galerna_view_t *view)
{
    member_t *member = context;
    uint32_t id;
    CHECK(view->size == sizeof *view);
    pthread_mutex_lock(&member->lock);
    CHECK(view->number == member->views);
    member->views++;
    member->view = view->number;
    member->rank = view->rank;
    record(&member->members, view->members, view->member_count);
    record(&member->joined, view->joined, view->joined_count);
    record(&member->left, view->left, view->left_count);
    record(&member->failed, view->failed, view->failed_count);
    pthread_mutex_unlock(&member->lock);
    /* The handle is already available in the first view. */
    OK(galerna_group_member(member->group, &id));
    CHECK(view->members[view->rank] == id);
}

bool are(const ids_t *ids, size_t count, uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t expected[] = {a, b, c};
    CHECK(count <= 3);
    return ids->count == count && memcmp(ids->ids, expected, count * sizeof *expected) == 0;
}

void member_join(member_t *member, const char *toml, uint32_t id, galerna_drive_t drive)
{
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = member_deliver, .stopped = member_stopped,
                                     .view = member_view, .context = member};
    memset(member, 0, sizeof *member);
    CHECK(pthread_mutex_init(&member->lock, NULL) == 0);
    member->drive = drive;
    OK(join(toml, id, &callbacks, drive, &member->group));
    /* The `view` callback was called for the first view before the join returned. */
    pthread_mutex_lock(&member->lock);
    CHECK(member->views >= 1);
    pthread_mutex_unlock(&member->lock);
    /* This member is a voter by then. */
    galerna_view_t now = {.size = sizeof now};
    OK(galerna_group_view(member->group, &now));
    size_t votes = 0;
    for (size_t i = 0; i < now.voter_count; i++) {
        votes += now.voters[i] == id;
    }
    CHECK(votes == 1 && now.voter_count <= now.member_count);
    galerna_view_free(&now);
}

size_t member_delivered(member_t *member)
{
    pthread_mutex_lock(&member->lock);
    size_t delivered = member->delivered;
    pthread_mutex_unlock(&member->lock);
    return delivered;
}

galerna_result_t member_stop_code(member_t *member)
{
    pthread_mutex_lock(&member->lock);
    galerna_result_t stopped = member->stopped;
    pthread_mutex_unlock(&member->lock);
    return stopped;
}

uint64_t member_view_number(member_t *member)
{
    pthread_mutex_lock(&member->lock);
    uint64_t view = member->view;
    pthread_mutex_unlock(&member->lock);
    return view;
}

void member_wait(member_t *member, bool (*done)(void *), void *argument)
{
    struct timespec start, now, millisecond = {.tv_nsec = 1000000};
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (!done(argument)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        CHECK((now.tv_sec - start.tv_sec) * 1000 < (long)LONG_MS);
        if (member->drive == GALERNA_DRIVE_THREAD) {
            nanosleep(&millisecond, NULL);
            continue;
        }
        struct pollfd waiting = {.events = POLLIN};
        OK(galerna_group_fd(member->group, &waiting.fd));
        CHECK(poll(&waiting, 1, 10) >= 0);
        galerna_result_t result = galerna_group_dispatch(member->group);
        CHECK(result == GALERNA_OK || result == member_stop_code(member));
    }
}

void member_leave(member_t *member)
{
    OK(galerna_group_leave(member->group, LONG_MS));
    OK(galerna_group_free(member->group));
    pthread_mutex_destroy(&member->lock);
}
