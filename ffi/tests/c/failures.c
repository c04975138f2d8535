/* Members that never start, fail or leave; the other members continue or stop. Handles that are freed while other
 * threads use them. Usage: failures tcp|shm */
#include "cluster.h"

#include <stdatomic.h>

static const char *fabric;

typedef struct {
    member_t *member;
    const char *toml;
    uint32_t id;
    galerna_drive_t drive;
} joiner_t;

static void *join_one(void *context)
{
    joiner_t *joiner = context;
    member_join(joiner->member, joiner->toml, joiner->id, joiner->drive);
    return NULL;
}

/* Starts members with ids 1, 2, ..., which found a group together. */
static void gather(const char *toml, member_t *members, const galerna_drive_t *drives, uint32_t count)
{
    pthread_t threads[MEMBERS_MOST];
    joiner_t joiners[MEMBERS_MOST];
    CHECK(count <= MEMBERS_MOST);
    for (uint32_t i = 0; i < count; i++) {
        joiners[i] = (joiner_t){.member = &members[i], .toml = toml, .id = i + 1, .drive = drives[i]};
        CHECK(pthread_create(&threads[i], NULL, join_one, &joiners[i]) == 0);
    }
    for (uint32_t i = 0; i < count; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(members[i].view == 0 && members[i].rank == i && members[i].members.count == count);
        CHECK(members[i].left.count == 0 && members[i].failed.count == 0);
    }
}

/* Starts two members. The second one is driven only inside calls of this test that wait. */
static void pair(const char *toml, member_t members[2], galerna_drive_t first)
{
    const galerna_drive_t drives[] = {first, GALERNA_DRIVE_DISPATCH};
    gather(toml, members, drives, 2);
}

static void the_missing_member_is_named(void)
{
    galerna_group_t *group;
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = member_deliver};
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

static bool in_view_1(void *context)
{
    return member_view_number(context) == 1;
}

static bool has_one_more(void *context)
{
    member_t *member = context;
    pthread_mutex_lock(&member->lock);
    bool more = member->delivered > 0 && member->delivered_in == 1;
    pthread_mutex_unlock(&member->lock);
    return more;
}

/* galerna_group_view() must return the same view as the callback received. */
static void same_view(member_t *member)
{
    galerna_view_t view = {.size = sizeof view};
    OK(galerna_group_view(member->group, &view));
    CHECK(view.number == member->view && view.rank == member->rank);
    CHECK(view.member_count == member->members.count && view.members[1] == member->members.ids[1]);
    CHECK(view.joined_count == member->joined.count);
    CHECK(view.left_count == member->left.count && view.failed_count == member->failed.count);
    CHECK(view.left_count + view.failed_count == 1);
    CHECK(view.left_count == 0 ? view.failed[0] == 2 : view.left[0] == 1);
    galerna_view_free(&view);
}

/* Checks the fault of member 2, as a whole and truncated. */
static void fault_is_told(galerna_group_t *group)
{
    char whole[256], cut[5];
    size_t length, same;
    OK(galerna_group_fault(group, 2, whole, sizeof whole, &length));
    CHECK(length > 0 && length == strlen(whole));
    OK(galerna_group_fault(group, 2, cut, sizeof cut, &same));
    CHECK(same == length && strlen(cut) == 4 && strncmp(whole, cut, 4) == 0);
}

/* Both remaining members send, and both deliver the messages in view 1. */
static void goes_on(member_t *one, member_t *two)
{
    OK(galerna_group_send(one->group, 0, GALERNA_MODE_SAFE, "one", 3, LONG_MS, NULL));
    OK(galerna_group_send(two->group, 0, GALERNA_MODE_SAFE, "two", 3, LONG_MS, NULL));
    OK(galerna_group_flush(one->group, 0, GALERNA_COPIES_ALL, LONG_MS));
    member_wait(one, has_one_more, one);
    member_wait(two, has_one_more, two);
    CHECK(member_stop_code(one) == GALERNA_OK && member_stop_code(two) == GALERNA_OK);
}

static void the_others_go_on_without_a_member_that_vanishes(galerna_drive_t drive)
{
    member_t members[3];
    const galerna_drive_t drives[] = {drive, GALERNA_DRIVE_DISPATCH, GALERNA_DRIVE_THREAD};
    char *toml = make_config(fabric, 3, LONG_MS);
    gather(toml, members, drives, 3);
    OK(galerna_group_free(members[1].group));
    for (int i = 0; i < 3; i += 2) {
        member_wait(&members[i], in_view_1, &members[i]);
        CHECK(are(&members[i].members, 2, 1, 3, 0) && are(&members[i].failed, 1, 2, 0, 0));
        CHECK(members[i].left.count == 0 && members[i].joined.count == 0);
        CHECK(members[i].rank == (i == 0 ? 0 : 1));
        same_view(&members[i]);
        fault_is_told(members[i].group);
    }
    goes_on(&members[0], &members[2]);
    OK(galerna_group_free(members[0].group));
    OK(galerna_group_free(members[2].group));
    free(toml);
}

static void the_others_go_on_without_a_member_that_leaves(galerna_drive_t drive)
{
    member_t members[3];
    const galerna_drive_t drives[] = {drive, GALERNA_DRIVE_THREAD, GALERNA_DRIVE_THREAD};
    char *toml = make_config(fabric, 3, LONG_MS);
    gather(toml, members, drives, 3);
    OK(galerna_group_send(members[0].group, 0, GALERNA_MODE_ORDERED, "last words", 10, LONG_MS, NULL));
    OK(galerna_group_leave(members[0].group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_leave(members[0].group, LONG_MS));
    CHECK(member_stop_code(&members[0]) == GALERNA_OK);
    for (int i = 1; i < 3; i++) {
        member_wait(&members[i], in_view_1, &members[i]);
        CHECK(member_delivered(&members[i]) == 1);
        CHECK(are(&members[i].members, 2, 2, 3, 0) && are(&members[i].left, 1, 1, 0, 0));
        CHECK(members[i].failed.count == 0 && members[i].rank == (size_t)i - 1);
        same_view(&members[i]);
    }
    goes_on(&members[1], &members[2]);
    for (int i = 0; i < 3; i++) {
        OK(galerna_group_free(members[i].group));
    }
    free(toml);
}

/* The leave needs the other member's agreement, but the other member is not driven. */
static void a_leave_can_time_out(void)
{
    member_t members[2];
    char *toml = make_config(fabric, 2, LONG_MS);
    pair(toml, members, GALERNA_DRIVE_DISPATCH);
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_group_leave(members[1].group, 50));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_leave(members[1].group, 50));
    OK(galerna_group_free(members[1].group));
    OK(galerna_group_free(members[0].group));
    free(toml);
}

/* One of two members cannot distinguish whether the other one is dead or only unreachable. */
static void one_of_two_stops(galerna_drive_t drive)
{
    member_t members[2];
    member_t *first = &members[0];
    char *toml = make_config_with(fabric, 2, LONG_MS, "failure_timeout_ms = 1000\npartition_timeout_ms = 1000\n");
    pair(toml, members, drive);
    OK(galerna_group_free(members[1].group));
    member_wait(first, has_stopped, first);
    CHECK(member_stop_code(first) == GALERNA_ERR_PARTITIONED);
    CHECK(strstr(first->reason, "1000 ms") != NULL);
    EXPECT(GALERNA_ERR_PARTITIONED, galerna_group_send(first->group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    EXPECT(GALERNA_ERR_PARTITIONED, galerna_group_flush(first->group, 0, GALERNA_COPIES_ALL, LONG_MS));
    EXPECT(GALERNA_ERR_PARTITIONED, galerna_group_leave(first->group, LONG_MS));
    expect_text("cut off");
    CHECK(member_view_number(first) == 0);
    OK(galerna_group_free(first->group));
    free(toml);
}

static void one_of_two_goes_on_if_it_is_told_to(galerna_drive_t drive)
{
    member_t members[2];
    member_t *first = &members[0];
    char *toml = make_config_with(fabric, 2, LONG_MS, "failure_timeout_ms = 10000\nlone_survivor = true\n");
    pair(toml, members, drive);
    OK(galerna_group_free(members[1].group));
    member_wait(first, in_view_1, first);
    CHECK(are(&first->members, 1, 1, 0, 0) && are(&first->failed, 1, 2, 0, 0));
    OK(galerna_group_send(first->group, 0, GALERNA_MODE_SAFE, "alone", 5, LONG_MS, NULL));
    member_wait(first, has_one_more, first);
    member_leave(first);
    free(toml);
}

static void *send_until_it_fails(void *context)
{
    static const char bytes[4000];
    member_t *member = context;
    galerna_result_t result;
    do {
        result = galerna_group_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, LONG_MS, NULL);
    } while (result == GALERNA_OK);
    CHECK(result == GALERNA_ERR_LEFT || result == GALERNA_ERR_HANDLE);
    return NULL;
}

static void *flush_until_it_fails(void *context)
{
    member_t *member = context;
    galerna_result_t result = galerna_group_flush(member->group, 0, GALERNA_COPIES_ALL, LONG_MS);
    CHECK(result == GALERNA_ERR_LEFT || result == GALERNA_ERR_HANDLE);
    return NULL;
}

static void *timed_out_send(void *context)
{
    static const char bytes[4000];
    member_t *member = context;
    galerna_result_t result;
    do {
        result = galerna_group_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 100, NULL);
    } while (result == GALERNA_OK);
    CHECK(result == GALERNA_ERR_TIMED_OUT);
    CHECK(galerna_group_send(member->group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 0, NULL) == GALERNA_ERR_WOULD_BLOCK);
    return NULL;
}

/* The second member receives nothing, so the ring of the first one fills up, and its threads wait. */
static void freeing_ends_the_calls_that_wait(galerna_drive_t drive)
{
    member_t members[2];
    member_t *first = &members[0];
    pthread_t threads[3];
    char *toml = make_config(fabric, 2, LONG_MS);
    pair(toml, members, drive);
    CHECK(pthread_create(&threads[0], NULL, timed_out_send, first) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_create(&threads[0], NULL, send_until_it_fails, first) == 0);
    CHECK(pthread_create(&threads[1], NULL, send_until_it_fails, first) == 0);
    CHECK(pthread_create(&threads[2], NULL, flush_until_it_fails, first) == 0);
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_group_flush(first->group, 0, GALERNA_COPIES_ALL, 100));
    OK(galerna_group_free(first->group));
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    OK(galerna_group_free(members[1].group));
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
    OK(galerna_group_flush(context, 0, GALERNA_COPIES_ALL, LONG_MS));
    return NULL;
}

static void one_thread_dispatches_at_a_time(void)
{
    galerna_group_t *group;
    pthread_t thread;
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = slow_deliver};
    char *toml = make_config(fabric, 1, LONG_MS);
    OK(join(toml, 1, &callbacks, GALERNA_DRIVE_DISPATCH, &group));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    CHECK(pthread_create(&thread, NULL, flush_alone, group) == 0);
    while (!atomic_load(&in_callback)) {
    }
    EXPECT(GALERNA_ERR_WOULD_BLOCK, galerna_group_dispatch(group));
    atomic_store(&may_return, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(galerna_group_dispatch(group));
    OK(galerna_group_leave(group, LONG_MS));
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
        the_others_go_on_without_a_member_that_vanishes(drives[i]);
        the_others_go_on_without_a_member_that_leaves(drives[i]);
        one_of_two_stops(drives[i]);
        one_of_two_goes_on_if_it_is_told_to(drives[i]);
        freeing_ends_the_calls_that_wait(drives[i]);
    }
    a_leave_can_time_out();
    one_thread_dispatches_at_a_time();
    return 0;
}
