/* Members that never come, vanish or leave, and handles that are freed while others use them.
 * Usage: failures tcp|shm */
#include "cluster.h"

#include <stdatomic.h>

static const char *fabric;

typedef struct {
    member_t member;
    const char *toml;
    uint32_t id;
    galerna_drive_t drive;
} joiner_t;

static void *join_other(void *context)
{
    joiner_t *joiner = context;
    member_join(&joiner->member, joiner->toml, joiner->id, joiner->drive);
    return NULL;
}

/* Two members that have met; the second is never driven by a thread. */
static char *pair(member_t *first, galerna_drive_t drive, joiner_t *second)
{
    pthread_t thread;
    char *toml = make_config(fabric, 2, LONG_MS);
    *second = (joiner_t){.toml = toml, .id = 2, .drive = GALERNA_DRIVE_DISPATCH};
    CHECK(pthread_create(&thread, NULL, join_other, second) == 0);
    member_join(first, toml, 1, drive);
    CHECK(pthread_join(thread, NULL) == 0);
    return toml;
}

static void the_missing_member_is_named(void)
{
    galerna_group_t *group;
    galerna_callbacks_t callbacks = {sizeof callbacks, member_deliver, NULL, NULL};
    char *toml = make_config(fabric, 2, 200);
    EXPECT(GALERNA_ERR_MEMBERS_MISSING, join(toml, 1, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("member 2");
    CHECK(group == NULL);
    free(toml);
}

static bool has_stopped(void *context)
{
    return member_stop_code(context) != GALERNA_OK;
}

static void a_member_that_vanishes_is_named(galerna_drive_t drive)
{
    member_t first;
    joiner_t second;
    char *toml = pair(&first, drive, &second);
    OK(galerna_group_free(second.member.group));
    member_wait(&first, has_stopped, &first);
    CHECK(member_stop_code(&first) == GALERNA_ERR_MEMBER_FAILED);
    CHECK(strstr(first.reason, "member 2") != NULL);
    EXPECT(GALERNA_ERR_MEMBER_FAILED, galerna_send(first.group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS));
    EXPECT(GALERNA_ERR_MEMBER_FAILED, galerna_flush(first.group, 0, 0, LONG_MS));
    EXPECT(GALERNA_ERR_MEMBER_FAILED, galerna_leave(first.group, LONG_MS));
    expect_text("member 2");
    OK(galerna_group_free(first.group));
    free(toml);
}

static void a_member_that_leaves_is_named(galerna_drive_t drive)
{
    member_t first;
    joiner_t second;
    char *toml = pair(&first, drive, &second);
    OK(galerna_send(second.member.group, 0, GALERNA_MODE_ORDERED, "last words", 10, LONG_MS));
    /* The leave waits for the first member, so it must be driven by somebody. */
    if (drive == GALERNA_DRIVE_THREAD) {
        OK(galerna_leave(second.member.group, LONG_MS));
        member_wait(&first, has_stopped, &first);
        CHECK(member_stop_code(&first) == GALERNA_ERR_MEMBER_LEFT);
        CHECK(member_delivered(&first) == 1);
        OK(galerna_leave(first.group, LONG_MS));
    } else {
        EXPECT(GALERNA_ERR_TIMED_OUT, galerna_leave(second.member.group, 50));
        EXPECT(GALERNA_ERR_LEFT, galerna_leave(second.member.group, 50));
    }
    OK(galerna_group_free(second.member.group));
    OK(galerna_group_free(first.group));
    free(toml);
}

static void *send_until_it_fails(void *context)
{
    static const char bytes[4000];
    member_t *member = context;
    galerna_result_t result;
    do {
        result = galerna_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, LONG_MS);
    } while (result == GALERNA_OK);
    CHECK(result == GALERNA_ERR_LEFT || result == GALERNA_ERR_HANDLE);
    return NULL;
}

static void *flush_until_it_fails(void *context)
{
    member_t *member = context;
    galerna_result_t result = galerna_flush(member->group, 0, 0, LONG_MS);
    CHECK(result == GALERNA_ERR_LEFT || result == GALERNA_ERR_HANDLE);
    return NULL;
}

static void *timed_out_send(void *context)
{
    static const char bytes[4000];
    member_t *member = context;
    galerna_result_t result;
    do {
        result = galerna_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 100);
    } while (result == GALERNA_OK);
    CHECK(result == GALERNA_ERR_TIMED_OUT);
    CHECK(galerna_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 0) == GALERNA_ERR_WOULD_BLOCK);
    return NULL;
}

/* The second member takes nothing in, so the first one's ring fills, and its threads wait. */
static void freeing_ends_the_calls_that_wait(galerna_drive_t drive)
{
    member_t first;
    joiner_t second;
    pthread_t threads[3];
    char *toml = pair(&first, drive, &second);
    CHECK(pthread_create(&threads[0], NULL, timed_out_send, &first) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_create(&threads[0], NULL, send_until_it_fails, &first) == 0);
    CHECK(pthread_create(&threads[1], NULL, send_until_it_fails, &first) == 0);
    CHECK(pthread_create(&threads[2], NULL, flush_until_it_fails, &first) == 0);
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_flush(first.group, 0, 0, 100));
    OK(galerna_group_free(first.group));
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    OK(galerna_group_free(second.member.group));
    free(toml);
}

static atomic_int in_callback, may_return;

static void slow_deliver(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
    atomic_store(&in_callback, 1);
    while (!atomic_load(&may_return)) {
    }
}

static void *flush_alone(void *context)
{
    OK(galerna_flush(context, 0, 0, LONG_MS));
    return NULL;
}

static void one_thread_dispatches_at_a_time(void)
{
    galerna_group_t *group;
    pthread_t thread;
    galerna_callbacks_t callbacks = {sizeof callbacks, slow_deliver, NULL, NULL};
    char *toml = make_config(fabric, 1, LONG_MS);
    OK(join(toml, 1, &callbacks, GALERNA_DRIVE_DISPATCH, &group));
    OK(galerna_send(group, 0, GALERNA_MODE_SAFE, "x", 1, 0));
    CHECK(pthread_create(&thread, NULL, flush_alone, group) == 0);
    while (!atomic_load(&in_callback)) {
    }
    EXPECT(GALERNA_ERR_WOULD_BLOCK, galerna_dispatch(group));
    atomic_store(&may_return, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(galerna_dispatch(group));
    OK(galerna_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    free(toml);
}

int main(int argc, char **argv)
{
    const galerna_drive_t drives[] = {GALERNA_DRIVE_THREAD, GALERNA_DRIVE_DISPATCH};
    CHECK(argc == 2);
    fabric = argv[1];
    the_missing_member_is_named();
    for (int i = 0; i < 2; i++) {
        a_member_that_vanishes_is_named(drives[i]);
        a_member_that_leaves_is_named(drives[i]);
        freeing_ends_the_calls_that_wait(drives[i]);
    }
    one_thread_dispatches_at_a_time();
    return 0;
}
