/*
 * A replicated counter: every member increments it, and all members end with the same value. A process that joins
 * later receives the value from another member. See README.md. The state itself is in count.c.
 *
 * A thread of the library drives the group and runs the callbacks. The main thread sends and waits.
 */
#define _POSIX_C_SOURCE 200809L
#include "count.h"
#include "options.h"

#include <galerna.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SUBGROUP 0u
#define TIMEOUT_MS 60000u

/* The messages of the members. */
#define INCREMENT '+'
#define DONE '.'

typedef struct {
    galerna_group_t *group;
    /* Protects the fields below. Callbacks write them, and the main thread waits for them to change. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    count_t count;
    uint32_t members[COUNT_MEMBERS_MOST];
    size_t member_count;
    /* Whether all members are done, and the value at that moment. */
    bool finished;
    uint64_t value;
    bool stopped;
    char reason[512];
} counter_t;

/* A copy of the state for a joining process. */
typedef struct {
    unsigned char bytes[COUNT_BYTES_MOST];
    size_t length, position;
} copy_t;

static void check(galerna_result_t result, const char *what)
{
    if (result != GALERNA_OK) {
        fail(what, galerna_last_error());
    }
}

/* Checks whether all members are done. The lock must be held. Messages and views come in the same order at every
 * member, so all members end with the same value. */
static void look(counter_t *counter)
{
    if (!counter->finished && count_all_done(&counter->count, counter->members, counter->member_count)) {
        counter->finished = true;
        counter->value = counter->count.value;
        pthread_cond_broadcast(&counter->changed);
    }
}

static void deliver(void *context, const galerna_message_t *message)
{
    counter_t *counter = context;
    const char *what = message->payload;
    pthread_mutex_lock(&counter->lock);
    if (message->length == 1 && *what == INCREMENT) {
        counter->count.value++;
    } else if (message->length == 1 && *what == DONE) {
        count_done(&counter->count, message->sender);
        look(counter);
    }
    pthread_mutex_unlock(&counter->lock);
}

static void print_ids(const char *what, const uint32_t *ids, size_t id_count)
{
    if (id_count > 0) {
        fprintf(stderr, "; %s", what);
    }
    for (size_t i = 0; i < id_count; i++) {
        fprintf(stderr, " %" PRIu32, ids[i]);
    }
}

static void print_view(const counter_t *counter, const galerna_view_t *view)
{
    char why[256];
    flockfile(stderr);
    fprintf(stderr, "view %" PRIu64, view->number);
    print_ids("members", view->members, view->member_count);
    print_ids("joined", view->joined, view->joined_count);
    print_ids("left", view->left, view->left_count);
    print_ids("failed", view->failed, view->failed_count);
    fputc('\n', stderr);
    for (size_t i = 0; i < view->failed_count; i++) {
        if (galerna_group_fault(counter->group, view->failed[i], why, sizeof why, NULL) == GALERNA_OK && *why != '\0') {
            fprintf(stderr, "member %" PRIu32 ": %s\n", view->failed[i], why);
        }
    }
    funlockfile(stderr);
}

static void view(void *context, const galerna_view_t *view)
{
    counter_t *counter = context;
    print_view(counter, view);
    pthread_mutex_lock(&counter->lock);
    if (view->member_count <= COUNT_MEMBERS_MOST) {
        memcpy(counter->members, view->members, view->member_count * sizeof *view->members);
        counter->member_count = view->member_count;
    }
    /* Removed members are not waited for. They are deleted from the list, because a joining member may have the id of
     * one of them. */
    count_keep(&counter->count, view->members, view->member_count);
    look(counter);
    pthread_mutex_unlock(&counter->lock);
}

static void stopped(void *context, galerna_result_t code, const char *text)
{
    counter_t *counter = context;
    (void)code;
    pthread_mutex_lock(&counter->lock);
    counter->stopped = true;
    snprintf(counter->reason, sizeof counter->reason, "%s", text);
    pthread_cond_broadcast(&counter->changed);
    pthread_mutex_unlock(&counter->lock);
}

/* Called in another thread than the callbacks. */
static ptrdiff_t read_copy(void *context, void *buffer, size_t length)
{
    copy_t *copy = context;
    size_t left = copy->length - copy->position;
    size_t some = left < length ? left : length;
    memcpy(buffer, copy->bytes + copy->position, some);
    copy->position += some;
    return (ptrdiff_t)some;
}

/* The state is small, so copying it is fast. */
static int snapshot(void *context, galerna_snapshot_t *out)
{
    counter_t *counter = context;
    copy_t *copy = calloc(1, sizeof *copy);
    if (copy == NULL) {
        return ENOMEM;
    }
    pthread_mutex_lock(&counter->lock);
    copy->length = count_encode(&counter->count, copy->bytes);
    pthread_mutex_unlock(&counter->lock);
    out->context = copy;
    out->read = read_copy;
    out->free = free;
    return 0;
}

/* The buffer has one byte more than the largest state, so that a state that is too long is noticed. */
static int restore(void *context, galerna_reader_t *reader)
{
    counter_t *counter = context;
    unsigned char bytes[COUNT_BYTES_MOST + 1];
    size_t length;
    if (galerna_reader_read(reader, bytes, sizeof bytes, &length) != GALERNA_OK) {
        return EIO;
    }
    pthread_mutex_lock(&counter->lock);
    bool taken = count_decode(&counter->count, bytes, length);
    pthread_mutex_unlock(&counter->lock);
    return taken ? 0 : EINVAL;
}

static void join(const options_t *options, counter_t *counter)
{
    galerna_callbacks_t callbacks = {.size = sizeof callbacks,
                                     .deliver = deliver,
                                     .stopped = stopped,
                                     .context = counter,
                                     .view = view,
                                     .snapshot = snapshot,
                                     .restore = restore};
    galerna_config_t *config;
    check(galerna_config_from_file(options->config, &config), "configuration");
    if (options->address != NULL) {
        /* This process is not a founder of the group. */
        check(galerna_config_set(config, "address", options->address), "address");
    }
    check(galerna_config_set_member(config, options->member), "configuration");
    check(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &counter->group), "join");
    galerna_config_free(config);
}

static void say(const counter_t *counter, char what)
{
    check(galerna_group_send(counter->group, SUBGROUP, GALERNA_MODE_SAFE, &what, 1, TIMEOUT_MS, NULL), "send");
}

static void increment(const counter_t *counter, const options_t *options)
{
    struct timespec pause = {.tv_sec = (time_t)(options->pause_ms / 1000),
                             .tv_nsec = (long)(options->pause_ms % 1000) * 1000000};
    for (unsigned long i = 0; i < options->increments; i++) {
        say(counter, INCREMENT);
        if (options->pause_ms > 0) {
            nanosleep(&pause, NULL);
        }
    }
    say(counter, DONE);
}

/* Waits until all members are done. */
static void wait_for_all(counter_t *counter)
{
    pthread_mutex_lock(&counter->lock);
    while (!counter->finished && !counter->stopped) {
        pthread_cond_wait(&counter->changed, &counter->lock);
    }
    if (!counter->finished) {
        fail("the group stopped", counter->reason);
    }
    pthread_mutex_unlock(&counter->lock);
}

int main(int argc, char **argv)
{
    static counter_t counter = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    options_t options = options_parse(argc, argv);
    join(&options, &counter);
    increment(&counter, &options);
    wait_for_all(&counter);
    printf("%" PRIu64 "\n", counter.value);
    check(galerna_group_leave(counter.group, TIMEOUT_MS), "leave");
    galerna_group_free(counter.group);
    return 0;
}
