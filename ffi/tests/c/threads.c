/* Tests of threads: signals go to the program's threads, and a thread that is cancelled inside a call leaves no lock
 * behind that other threads wait for. Usage: threads tcp|shm */
#define _GNU_SOURCE
#include "cluster.h"

#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static const char *fabric;

/* The program blocks a signal after the library's threads were started, and then waits for the signal. */
static void signals_are_the_programs(void)
{
    char *toml = make_config(fabric, 1, LONG_MS);
    member_t member;
    member_join(&member, toml, 1, GALERNA_DRIVE_THREAD);
    sigset_t awaited, before;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGUSR1);
    sigaddset(&awaited, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &awaited, &before) == 0);
    const int signals[] = {SIGUSR1, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct timespec patience = {.tv_sec = 30};
        CHECK(kill(getpid(), signals[i]) == 0);
        CHECK(sigtimedwait(&awaited, NULL, &patience) == signals[i]);
    }
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    member_leave(&member);
    free(toml);
}

static atomic_bool begun;

static void *flush(void *context)
{
    member_t *member = context;
    atomic_store(&begun, true);
    galerna_result_t result = galerna_group_flush(member->group, 0, GALERNA_COPIES_ALL, LONG_MS);
    CHECK(result == GALERNA_ERR_LEFT || result == GALERNA_ERR_HANDLE);
    /* The cancellation takes effect after the call. */
    pthread_testcancel();
    return NULL;
}

static void a_cancelled_thread_leaves_nothing_behind(galerna_drive_t drive)
{
    char *toml = make_config(fabric, 1, LONG_MS);
    member_t member;
    galerna_reservation_t open = {.size = sizeof open};
    pthread_t thread;
    void *result;
    struct timespec moment = {.tv_nsec = 100000000};
    member_join(&member, toml, 1, drive);
    /* The open reservation delays the flush. */
    OK(galerna_group_reserve(member.group, 0, 8, LONG_MS, &open));
    atomic_store(&begun, false);
    CHECK(pthread_create(&thread, NULL, flush, &member) == 0);
    while (!atomic_load(&begun)) {
        nanosleep(&moment, NULL);
    }
    nanosleep(&moment, NULL);
    CHECK(pthread_cancel(thread) == 0);
    nanosleep(&moment, NULL);
    OK(galerna_group_free(member.group));
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    pthread_mutex_destroy(&member.lock);
    free(toml);
}

static void deliver_slowly(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
    struct timespec moment = {.tv_nsec = 200000};
    nanosleep(&moment, NULL);
}

static void *dispatch_on(void *group)
{
    galerna_result_t result;
    do {
        result = galerna_group_dispatch(group);
    } while (result == GALERNA_OK || result == GALERNA_ERR_WOULD_BLOCK);
    CHECK(result == GALERNA_ERR_LEFT);
    return NULL;
}

static void *send_on(void *group)
{
    galerna_result_t result;
    do {
        result = galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, 1000, NULL);
    } while (result == GALERNA_OK || result == GALERNA_ERR_TIMED_OUT);
    CHECK(result == GALERNA_ERR_LEFT);
    return NULL;
}

/* One thread dispatches all the time, in slow callbacks, while another thread leaves the group. */
static void a_leave_beside_a_busy_dispatch(void)
{
    char *toml = make_config(fabric, 1, LONG_MS);
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver_slowly};
    galerna_group_t *group;
    pthread_t dispatches, sends;
    struct timespec moment = {.tv_nsec = 100000000};
    OK(join(toml, 1, &callbacks, GALERNA_DRIVE_DISPATCH, &group));
    CHECK(pthread_create(&dispatches, NULL, dispatch_on, group) == 0);
    CHECK(pthread_create(&sends, NULL, send_on, group) == 0);
    nanosleep(&moment, NULL);
    OK(galerna_group_leave(group, LONG_MS));
    CHECK(pthread_join(dispatches, NULL) == 0);
    CHECK(pthread_join(sends, NULL) == 0);
    OK(galerna_group_free(group));
    free(toml);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    fabric = argv[1];
    signals_are_the_programs();
    a_cancelled_thread_leaves_nothing_behind(GALERNA_DRIVE_THREAD);
    a_cancelled_thread_leaves_nothing_behind(GALERNA_DRIVE_DISPATCH);
    a_leave_beside_a_busy_dispatch();
    return 0;
}
