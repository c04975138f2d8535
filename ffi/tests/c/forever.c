/* A wait with GALERNA_WAIT_FOREVER ends when the event happens, or when the group ends. Usage: forever */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"
#include "log_files.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void ignore(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
}

/* A group, and the reservation that delays its flush. */
typedef struct {
    galerna_group_t *group;
    galerna_reservation_t open;
} held_t;

static void sleep_a_little(void)
{
    struct timespec pause = {.tv_nsec = 200000000};
    nanosleep(&pause, NULL);
}

static void *abandon_later(void *context)
{
    held_t *held = context;
    sleep_a_little();
    OK(galerna_group_abandon(held->group, &held->open));
    return NULL;
}

static void *free_later(void *context)
{
    held_t *held = context;
    sleep_a_little();
    OK(galerna_group_free(held->group));
    return NULL;
}

static void wait_for_ever(galerna_drive_t drive)
{
    char *toml = make_config("shm", 1, LONG_MS);
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    held_t held = {.open = {.size = sizeof held.open}};
    pthread_t thread;
    callbacks.deliver = ignore;
    OK(join(toml, 1, &callbacks, drive, &held.group));
    OK(galerna_group_reserve(held.group, 0, 8, GALERNA_WAIT_FOREVER, &held.open));
    CHECK(pthread_create(&thread, NULL, abandon_later, &held) == 0);
    OK(galerna_group_flush(held.group, 0, GALERNA_COPIES_ALL, GALERNA_WAIT_FOREVER));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(held.open.data == NULL);
    OK(galerna_group_send(held.group, 0, GALERNA_MODE_SAFE, "x", 1, GALERNA_WAIT_FOREVER, NULL));
    OK(galerna_group_leave(held.group, GALERNA_WAIT_FOREVER));
    OK(galerna_group_free(held.group));

    OK(join(toml, 1, &callbacks, drive, &held.group));
    OK(galerna_group_reserve(held.group, 0, 8, GALERNA_WAIT_FOREVER, &held.open));
    CHECK(pthread_create(&thread, NULL, free_later, &held) == 0);
    EXPECT(GALERNA_ERR_LEFT, galerna_group_flush(held.group, 0, GALERNA_COPIES_ALL, GALERNA_WAIT_FOREVER));
    CHECK(pthread_join(thread, NULL) == 0);
    free(toml);
}

/* Two members with logs. The second one stands still once both have joined. */
typedef struct {
    const char *toml;
    atomic_bool *joined;
    atomic_bool *done;
} still_t;

static void *stand_still(void *context)
{
    still_t *still = context;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    galerna_group_t *group;
    callbacks.deliver = ignore;
    OK(join(still->toml, 2, &callbacks, GALERNA_DRIVE_DISPATCH, &group));
    while (!atomic_load(still->joined)) {
        OK(galerna_group_dispatch(group));
    }
    while (!atomic_load(still->done)) {
        sleep_a_little();
    }
    OK(galerna_group_free(group));
    return NULL;
}

static void count(void *context, const galerna_message_t *message)
{
    (void)message;
    ++*(int *)context;
}

/* A checkpoint that waits for the other member's disk ends when the group is freed. */
static void checkpoint_for_ever(galerna_drive_t drive)
{
    char keys[512], *path = new_log();
    atomic_bool joined = false, done = false;
    int delivered = 0;
    pthread_t other, thread;
    held_t held;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    int written = snprintf(keys, sizeof keys,
                           "failure_timeout_ms = 60000\npartition_timeout_ms = 60000\n"
                           "log = { directory = \"%s\", segment_bytes = 65536 }\n",
                           path);
    CHECK(written > 0 && (size_t)written < sizeof keys);
    char *toml = make_config_with("shm", 2, LONG_MS, keys);
    still_t still = {toml, &joined, &done};
    CHECK(pthread_create(&other, NULL, stand_still, &still) == 0);
    callbacks.deliver = count;
    callbacks.context = &delivered;
    OK(join(toml, 1, &callbacks, drive, &held.group));
    atomic_store(&joined, true);
    sleep_a_little();
    OK(galerna_group_send(held.group, 0, GALERNA_MODE_ORDERED, "x", 1, GALERNA_WAIT_FOREVER, NULL));
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_group_persist(held.group, 0, 300));
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_group_checkpoint(held.group, 0, 300, NULL));
    CHECK(pthread_create(&thread, NULL, free_later, &held) == 0);
    EXPECT(GALERNA_ERR_LEFT, galerna_group_checkpoint(held.group, 0, GALERNA_WAIT_FOREVER, NULL));
    CHECK(pthread_join(thread, NULL) == 0);
    atomic_store(&done, true);
    CHECK(pthread_join(other, NULL) == 0);
    free(toml);
    for (unsigned id = 1; id <= 2; id++) {
        char *log = malloc(strlen(path) + 32);
        CHECK(log != NULL);
        sprintf(log, "%s/c-test-%u", path, id);
        remove_log(log);
    }
    CHECK(rmdir(path) == 0);
    free(path);
}

int main(void)
{
    CHECK(GALERNA_WAIT_FOREVER == UINT32_MAX);
    wait_for_ever(GALERNA_DRIVE_THREAD);
    wait_for_ever(GALERNA_DRIVE_DISPATCH);
    checkpoint_for_ever(GALERNA_DRIVE_THREAD);
    checkpoint_for_ever(GALERNA_DRIVE_DISPATCH);
    return 0;
}
