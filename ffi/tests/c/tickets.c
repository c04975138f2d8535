/* Tickets, parts, the ring's space, and the addresses of a view. Usage: tickets */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <pthread.h>
#include <string.h>

/* The last own message, under a lock. */
typedef struct {
    pthread_mutex_t lock;
    uint64_t ticket;
    uint64_t count;
    uint64_t time_ns;
    char text[32];
} last_t;

static void deliver(void *context, const galerna_message_t *message)
{
    last_t *last = context;
    CHECK(message->size == sizeof *message);
    CHECK(pthread_mutex_lock(&last->lock) == 0);
    CHECK(message->ticket > last->ticket);
    CHECK(message->length < sizeof last->text);
    memcpy(last->text, message->payload, message->length);
    last->text[message->length] = 0;
    last->ticket = message->ticket;
    last->time_ns = message->time_ns;
    last->count++;
    CHECK(pthread_mutex_unlock(&last->lock) == 0);
}

static void has_delivered(last_t *last, uint64_t ticket, const char *text)
{
    CHECK(pthread_mutex_lock(&last->lock) == 0);
    CHECK(last->ticket == ticket);
    CHECK(strcmp(last->text, text) == 0);
    CHECK(last->time_ns == 0);
    CHECK(pthread_mutex_unlock(&last->lock) == 0);
}

static void wait_for_messages(galerna_group_t *group, last_t *last)
{
    galerna_part_t parts[] = {{.data = "one", .length = 3}, {.data = NULL, .length = 0}, {.data = " two", .length = 4}};
    galerna_reservation_t open = {.size = sizeof open};
    uint64_t ticket = 7;
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "sent", 4, LONG_MS, &ticket));
    CHECK(ticket > 0);
    OK(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, LONG_MS));
    has_delivered(last, ticket, "sent");
    OK(galerna_group_sendv(group, 0, GALERNA_MODE_ORDERED, parts, 3, LONG_MS, &ticket));
    OK(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, GALERNA_WAIT_FOREVER));
    has_delivered(last, ticket, "one two");
    OK(galerna_group_sendv(group, 0, GALERNA_MODE_ORDERED, NULL, 0, LONG_MS, &ticket));
    OK(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, LONG_MS));
    has_delivered(last, ticket, "");
    OK(galerna_group_reserve(group, 0, 4, LONG_MS, &open));
    memcpy(open.data, "mine", 4);
    OK(galerna_group_commit(group, &open, GALERNA_MODE_SAFE, &ticket));
    OK(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, LONG_MS));
    has_delivered(last, ticket, "mine");
    /* A wait for an earlier message, and one of no time. */
    OK(galerna_group_wait(group, 0, 1, GALERNA_UNTIL_DELIVERED, 0));
    OK(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, 0));
}

static void refusals(galerna_group_t *group)
{
    galerna_part_t wrong[] = {{.data = NULL, .length = 1}};
    galerna_part_t huge[] = {{.data = "x", .length = SIZE_MAX}, {.data = "x", .length = SIZE_MAX}};
    uint64_t ticket = 7;
    uint32_t none = 0;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_wait(group, 0, 0, GALERNA_UNTIL_DELIVERED, 0));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_wait(group, 0, 1, 7, 0));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait(group, 0, UINT64_MAX, GALERNA_UNTIL_DELIVERED, 0));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait(group, 0, 1, GALERNA_UNTIL_DURABLE, 0));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_wait(group, 1, 1, GALERNA_UNTIL_DELIVERED, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_wait(NULL, 0, 1, GALERNA_UNTIL_DELIVERED, 0));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_flush(group, 0, none, 0));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_sendv(group, 0, GALERNA_MODE_SAFE, wrong, 1, 0, &ticket));
    CHECK(ticket == 0);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_sendv(group, 0, GALERNA_MODE_SAFE, NULL, 1, 0, NULL));
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_group_sendv(group, 0, GALERNA_MODE_SAFE, huge, 2, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_sendv(group, 0, GALERNA_MODE_SAFE, wrong, SIZE_MAX, 0, NULL));
}

static void space_and_addresses(galerna_group_t *group)
{
    galerna_group_ring_t ring = {.size = sizeof ring};
    galerna_reservation_t open = {.size = sizeof open};
    galerna_view_t view = {.size = sizeof view};
    uint64_t free_bytes;
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    OK(galerna_group_ring(group, 0, &ring));
    CHECK(ring.ring_bytes > 0 && ring.free_bytes <= ring.ring_bytes);
    free_bytes = ring.free_bytes;
    OK(galerna_group_reserve(group, 0, 1000, LONG_MS, &open));
    OK(galerna_group_ring(group, 0, &ring));
    CHECK(ring.free_bytes <= free_bytes - 1008 || ring.free_bytes > free_bytes);
    CHECK(ring.is_short == 0);
    OK(galerna_group_abandon(group, &open));
    OK(galerna_group_view(group, &view));
    CHECK(view.member_count == 1);
    CHECK(strncmp(view.addresses[0], "unix:", 5) == 0);
    galerna_view_free(&view);
    CHECK(view.addresses == NULL);
}

static void with_drive(galerna_drive_t drive)
{
    char *toml = make_config("shm", 1, LONG_MS);
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    last_t last = {.lock = PTHREAD_MUTEX_INITIALIZER};
    galerna_group_t *group;
    callbacks.deliver = deliver;
    callbacks.context = &last;
    OK(join(toml, 1, &callbacks, drive, &group));
    wait_for_messages(group, &last);
    refusals(group);
    space_and_addresses(group);
    OK(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    free(toml);
}

int main(void)
{
    with_drive(GALERNA_DRIVE_THREAD);
    with_drive(GALERNA_DRIVE_DISPATCH);
    return 0;
}
