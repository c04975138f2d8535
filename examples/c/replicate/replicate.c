/*
 * A replicated line store: every member sends its share of the lines of a file, and all end with the same history.
 *
 * Usage: replicate CONFIG.toml MEMBER FILE > HISTORY
 *
 * The program has one thread and an event loop. The callback that appends a line to the history runs in two places:
 * in calls that wait for ring space, and in galerna_group_dispatch(), which is called when the descriptor is readable.
 */
#define _POSIX_C_SOURCE 200809L
#include <galerna.h>

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUBGROUP 0u
#define TIMEOUT_MS 60000u

/* The history, equal at every member. For each line it contains the sender's id (4 bytes, little endian), the bytes,
 * and a newline. */
typedef struct {
    unsigned char *bytes;
    size_t length;
    size_t capacity;
    size_t lines;
} history_t;

typedef struct {
    history_t history;
    galerna_group_t *group;
    /* Rank and number of members in the first view. */
    size_t rank, members;
    bool failed;
    uint32_t failed_member;
} replica_t;

/* The lines of a file, without their newlines. */
typedef struct {
    char **text;
    size_t *length;
    size_t count;
} lines_t;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "replicate: %s: %s\n", what, why);
    exit(1);
}

static void check(galerna_result_t result, const char *what)
{
    if (result != GALERNA_OK) {
        fail(what, galerna_last_error());
    }
}

static void *grow(void *memory, size_t size)
{
    void *grown = realloc(memory, size);
    if (grown == NULL) {
        fail("memory", "exhausted");
    }
    return grown;
}

static lines_t read_lines(const char *path)
{
    lines_t lines = {0};
    size_t room = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail(path, strerror(errno));
    }
    for (;;) {
        char *text = NULL;
        size_t capacity = 0;
        ssize_t length = getline(&text, &capacity, file);
        if (length < 0) {
            free(text);
            break;
        }
        if (lines.count == room) {
            room = room == 0 ? 64 : 2 * room;
            lines.text = grow(lines.text, room * sizeof *lines.text);
            lines.length = grow(lines.length, room * sizeof *lines.length);
        }
        lines.text[lines.count] = text;
        lines.length[lines.count] = (size_t)length - (text[length - 1] == '\n');
        lines.count++;
    }
    if (ferror(file)) {
        fail(path, strerror(errno));
    }
    fclose(file);
    return lines;
}

static void free_lines(lines_t *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        free(lines->text[i]);
    }
    free(lines->text);
    free(lines->length);
}

/* Called for every line, in the same order at every member. */
static void deliver(void *context, const galerna_message_t *message)
{
    history_t *history = &((replica_t *)context)->history;
    size_t need = history->length + message->length + 5;
    if (need > history->capacity) {
        history->capacity = 2 * need;
        history->bytes = grow(history->bytes, history->capacity);
    }
    unsigned char *end = history->bytes + history->length;
    for (int i = 0; i < 4; i++) {
        *end++ = (unsigned char)(message->sender >> (8 * i));
    }
    memcpy(end, message->payload, message->length);
    end[message->length] = '\n';
    history->length = need;
    history->lines++;
}

/* Called when a view begins. The first call comes inside galerna_group_join(). */
static void view(void *context, const galerna_view_t *view)
{
    replica_t *replica = context;
    if (view->number == 0) {
        replica->rank = view->rank;
        replica->members = view->member_count;
    }
    if (view->failed_count > 0) {
        replica->failed = true;
        replica->failed_member = view->failed[0];
    }
}

/* Fills the message in place, in the memory that the network reads. */
static void send_line(galerna_group_t *group, const char *text, size_t length)
{
    galerna_reservation_t reservation = {.size = sizeof reservation};
    check(galerna_group_reserve(group, SUBGROUP, length, TIMEOUT_MS, &reservation), "reserve");
    memcpy(reservation.data, text, length);
    check(galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL), "commit");
}

/* The member with the rank `i modulo the number of members` sends line i. */
static void send_share(const replica_t *replica, const lines_t *lines)
{
    for (size_t i = replica->rank; i < lines->count; i += replica->members) {
        send_line(replica->group, lines->text[i], lines->length[i]);
    }
}

/* The group continues without a member that failed, but its share of the lines may be missing for ever. */
static void fail_with_member(const replica_t *replica)
{
    char why[200], what[32];
    check(galerna_group_fault(replica->group, replica->failed_member, why, sizeof why, NULL), "fault");
    snprintf(what, sizeof what, "member %u failed", (unsigned)replica->failed_member);
    fail(what, why);
}

/* Receives until all lines are delivered. Other members may finish earlier and leave: the group continues without
 * them, and nothing is lost. */
static void receive_all(const replica_t *replica, size_t count)
{
    struct pollfd waiting = {.events = POLLIN};
    check(galerna_group_fd(replica->group, &waiting.fd), "fd");
    while (replica->history.lines < count) {
        check(galerna_group_dispatch(replica->group), "dispatch");
        if (replica->history.lines >= count) {
            break;
        }
        if (replica->failed) {
            fail_with_member(replica);
        }
        if (poll(&waiting, 1, -1) < 0 && errno != EINTR) {
            fail("poll", strerror(errno));
        }
    }
}

static void write_history(const history_t *history)
{
    size_t length = history->length;
    if ((length > 0 && fwrite(history->bytes, 1, length, stdout) != length) || fflush(stdout) != 0) {
        fail("standard output", strerror(errno));
    }
}

static uint32_t parse_member(const char *text)
{
    char *end;
    errno = 0;
    unsigned long member = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || member > UINT32_MAX) {
        fail(text, "not the id of a member");
    }
    return (uint32_t)member;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: replicate CONFIG.toml MEMBER FILE > HISTORY\n");
        return 2;
    }
    replica_t replica = {0};
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .view = view, .context = &replica};
    galerna_config_t *config;
    lines_t lines = read_lines(argv[3]);

    check(galerna_config_from_file(argv[1], &config), "configuration");
    check(galerna_config_set_member(config, parse_member(argv[2])), "configuration");
    check(galerna_group_join(config, &callbacks, GALERNA_DRIVE_DISPATCH, &replica.group), "join");
    galerna_config_free(config);

    send_share(&replica, &lines);
    receive_all(&replica, lines.count);
    check(galerna_group_leave(replica.group, TIMEOUT_MS), "leave");
    galerna_group_free(replica.group);

    write_history(&replica.history);
    free(replica.history.bytes);
    free_lines(&lines);
    return 0;
}
