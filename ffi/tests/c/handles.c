/* Threads use a handle while it is freed and its slot is reused. Usage: handles */
#include "cluster.h"

#include <stdatomic.h>

#define THREADS 3
#define ROUNDS 25

static _Atomic(galerna_group_t *) current;
static atomic_bool done;
static atomic_uint used;

static void deliver(void *context, const galerna_message_t *message)
{
    galerna_group_stats_t stats = {.size = sizeof stats};
    (void)message;
    /* The context belongs to the group of this round, and is valid until the group's handle is freed. */
    CHECK(atomic_load((atomic_int *)context) == 1);
    galerna_result_t result = galerna_group_stats(atomic_load(&current), 0, &stats);
    CHECK(result == GALERNA_OK || result == GALERNA_ERR_HANDLE);
}

static void *use(void *context)
{
    (void)context;
    while (!atomic_load(&done)) {
        galerna_reservation_t reservation = {.size = sizeof reservation};
        galerna_group_t *group = atomic_load(&current);
        galerna_result_t result = galerna_group_reserve(group, 0, 64, 10, &reservation);
        CHECK(result == GALERNA_OK || result == GALERNA_ERR_HANDLE || result == GALERNA_ERR_LEFT ||
              result == GALERNA_ERR_TIMED_OUT);
        if (result == GALERNA_OK) {
            /* The bytes are not accessed, because freeing the group may unmap them. */
            result = galerna_group_commit(group, &reservation, GALERNA_MODE_ORDERED, NULL);
            CHECK(result == GALERNA_OK || result == GALERNA_ERR_HANDLE);
            atomic_fetch_add(&used, 1);
        }
        galerna_view_t view = {.size = sizeof view};
        result = galerna_group_view(group, &view);
        CHECK(result == GALERNA_OK ? view.member_count == 1 && view.members[0] == 1 : result == GALERNA_ERR_HANDLE);
        galerna_view_free(&view);
        result = galerna_group_flush(group, 0, GALERNA_COPIES_ALL, 5);
        CHECK(result == GALERNA_OK || result == GALERNA_ERR_HANDLE || result == GALERNA_ERR_LEFT ||
              result == GALERNA_ERR_TIMED_OUT);
    }
    return NULL;
}

static void round_of(galerna_drive_t drive)
{
    atomic_int alive = 1;
    galerna_group_t *group;
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .context = &alive};
    char *toml = make_config("shm", 1, LONG_MS);
    unsigned before = atomic_load(&used);
    OK(join(toml, 1, &callbacks, drive, &group));
    atomic_store(&current, group);
    while (atomic_load(&used) < before + 20) {
        galerna_group_flush(group, 0, GALERNA_COPIES_ALL, 5);
    }
    OK(galerna_group_free(group));
    /* From here on no callback of this group may run. */
    atomic_store(&alive, 0);
    free(toml);
}

int main(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, use, NULL) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        round_of(i % 2 == 0 ? GALERNA_DRIVE_THREAD : GALERNA_DRIVE_DISPATCH);
    }
    atomic_store(&done, true);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}
