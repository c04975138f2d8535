/* A wait with GALERNA_WAIT_FOREVER ends when the event happens, or when the group ends. Usage: forever */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <time.h>

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

int main(void)
{
    CHECK(GALERNA_WAIT_FOREVER == UINT32_MAX);
    wait_for_ever(GALERNA_DRIVE_THREAD);
    wait_for_ever(GALERNA_DRIVE_DISPATCH);
    return 0;
}
