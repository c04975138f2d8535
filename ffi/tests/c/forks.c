/* A forked child makes every call with its parent's handles: each call returns GALERNA_ERR_FORKED and has no effect,
 * and the parent continues. Usage: forks tcp|shm */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"
#include "log_files.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FORKED(call) EXPECT(GALERNA_ERR_FORKED, call)

static const char *fabric;

/* The parent's objects. */
typedef struct {
    galerna_group_t *group;
    galerna_config_t *config;
    galerna_reservation_t open;
    galerna_log_t *log, *group_log;
    galerna_log_iter_t *iter;
    galerna_log_entry_t *entry;
    galerna_log_checkpoint_writer_t *writer;
    galerna_view_t view;
    galerna_version_t first;
} things_t;

static void group_calls(things_t *things)
{
    galerna_group_t *group = things->group;
    galerna_reservation_t reservation = {.size = sizeof reservation}, open = things->open;
    galerna_group_stats_t stats = {.size = sizeof stats};
    galerna_group_frontiers_t frontiers = {.size = sizeof frontiers};
    galerna_view_t view = {.size = sizeof view};
    galerna_version_t version;
    galerna_log_t *log;
    uint32_t member;
    size_t bytes;
    int fd;
    for (int i = 0; i < 100; i++) {
        FORKED(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "the child's", 11, LONG_MS, NULL));
        FORKED(galerna_group_send(group, 0, GALERNA_MODE_ORDERED, "the child's", 11, 0, NULL));
    }
    expect_text("forked");
    FORKED(galerna_group_reserve(group, 0, 8, LONG_MS, &reservation));
    CHECK(reservation.data == NULL);
    FORKED(galerna_group_commit(group, &open, GALERNA_MODE_SAFE, NULL));
    FORKED(galerna_group_abandon(group, &open));
    FORKED(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    FORKED(galerna_group_stats(group, 0, &stats));
    FORKED(galerna_group_frontiers(group, 0, &frontiers));
    FORKED(galerna_group_wait_durable(group, 0, 0, LONG_MS));
    FORKED(galerna_group_wait_closed(group, 0, 0, LONG_MS));
    FORKED(galerna_group_persist(group, 0, LONG_MS));
    FORKED(galerna_group_checkpoint(group, 0, LONG_MS, &version));
    FORKED(galerna_group_trim_log(group, 0, things->first));
    FORKED(galerna_group_log(group, 0, &log));
    FORKED(galerna_group_member(group, &member));
    FORKED(galerna_group_fault(group, 2, NULL, 0, &bytes));
    FORKED(galerna_group_max_message(group, 0, &bytes));
    FORKED(galerna_group_view(group, &view));
    FORKED(galerna_group_fd(group, &fd));
    FORKED(galerna_group_dispatch(group));
    FORKED(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    OK(galerna_group_free(group));
    /* The handle stays the parent's. */
    FORKED(galerna_group_dispatch(group));
    galerna_view_free(&things->view);
}

static void log_calls(things_t *things)
{
    galerna_log_t *logs[] = {things->log, things->group_log};
    for (int i = 0; i < 2; i++) {
        galerna_log_t *log = logs[i];
        galerna_version_t version;
        galerna_log_entry_t *entry;
        galerna_log_iter_t *iter;
        galerna_log_checkpoint_t *checkpoint;
        galerna_log_checkpoint_writer_t *writer;
        FORKED(galerna_log_append(log, "the child's", 11, LONG_MS, &version));
        FORKED(galerna_log_try_append(log, "the child's", 11, &version));
        FORKED(galerna_log_sync(log, LONG_MS));
        FORKED(galerna_log_wait_durable(log, things->first, LONG_MS));
        FORKED(galerna_log_durable(log, &version));
        FORKED(galerna_log_trim(log, things->first, LONG_MS));
        FORKED(galerna_log_checkpoint_load(log, &checkpoint));
        FORKED(galerna_log_checkpoint_begin(log, things->first, 1, &writer));
        FORKED(galerna_log_iterate(log, NULL, &iter));
        FORKED(galerna_log_oldest(log, &version, NULL));
        FORKED(galerna_log_end(log, &version, NULL));
        FORKED(galerna_log_get(log, things->first, &entry));
        FORKED(galerna_log_first_at_or_after(log, things->first, &entry));
        FORKED(galerna_log_at_time(log, UINT64_MAX, &entry));
    }
    galerna_log_record_t record = {.size = sizeof record};
    galerna_log_entry_t *entry;
    FORKED(galerna_log_entry_record(things->entry, &record));
    FORKED(galerna_log_iter_next(things->iter, &entry));
    FORKED(galerna_log_checkpoint_write(things->writer, "the child's", 11));
    FORKED(galerna_log_checkpoint_commit(things->writer, LONG_MS));
    galerna_log_entry_free(things->entry);
    galerna_log_iter_free(things->iter);
    galerna_log_checkpoint_abandon(things->writer);
    OK(galerna_log_close(things->log));
    OK(galerna_log_free(things->group_log));
}

static void wait_for(pid_t child)
{
    struct timespec start, now, moment = {.tv_nsec = 5000000};
    int status;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (waitpid(child, &status, WNOHANG) == 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000 > (long)LONG_MS) {
            kill(child, SIGKILL);
            fprintf(stderr, "the child hangs\n");
            exit(1);
        }
        nanosleep(&moment, NULL);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

typedef struct {
    member_t member;
    const char *toml;
} second_t;

static void *join_second(void *context)
{
    second_t *second = context;
    member_join(&second->member, second->toml, 2, GALERNA_DRIVE_THREAD);
    return NULL;
}

/* The messages before the fork, the message of the open reservation, and the messages after the fork. */
#define ALL 42u

static bool has_all(void *context)
{
    return member_delivered(context) == ALL;
}

static void fork_between(galerna_drive_t drive)
{
    char *folder = new_log(), *alone = new_log();
    char keys[512];
    snprintf(keys, sizeof keys,
             "failure_timeout_ms = 60000\npartition_timeout_ms = 60000\nlog = { directory = \"%s\" }\n", folder);
    char *toml = make_config_with(fabric, 2, LONG_MS, keys);
    member_t first;
    second_t second = {.toml = toml};
    pthread_t thread;
    things_t things = {.open = {.size = sizeof things.open}, .view = {.size = sizeof things.view}};

    CHECK(pthread_create(&thread, NULL, join_second, &second) == 0);
    member_join(&first, toml, 1, drive);
    things.group = first.group;
    OK(galerna_group_send(first.group, 0, GALERNA_MODE_DURABLE, "before", 6, LONG_MS, NULL));
    OK(galerna_group_persist(first.group, 0, LONG_MS));
    CHECK(pthread_join(thread, NULL) == 0);

    OK(galerna_config_from_toml(toml, &things.config));
    OK(galerna_group_view(first.group, &things.view));
    OK(galerna_group_log(first.group, 0, &things.group_log));
    OK(galerna_log_open(alone, NULL, &things.log));
    OK(galerna_log_append(things.log, "first", 5, LONG_MS, &things.first));
    OK(galerna_log_sync(things.log, LONG_MS));
    OK(galerna_log_get(things.log, things.first, &things.entry));
    OK(galerna_log_iterate(things.log, NULL, &things.iter));
    OK(galerna_log_checkpoint_begin(things.log, things.first, 1, &things.writer));
    OK(galerna_group_reserve(first.group, 0, 8, LONG_MS, &things.open));
    memcpy(things.open.data, "parent's", 8);

    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        group_calls(&things);
        log_calls(&things);
        /* The child may use the configuration, too. */
        OK(galerna_config_set_member(things.config, 2));
        galerna_config_free(things.config);
        /* Calls exec, so that the child's copies of the parent's objects do not count as leaks. */
        execlp("true", "true", (char *)NULL);
        _exit(1);
    }
    wait_for(child);

    OK(galerna_group_commit(first.group, &things.open, GALERNA_MODE_SAFE, NULL));
    for (unsigned i = 0; i < 20; i++) {
        OK(galerna_group_send(first.group, 0, GALERNA_MODE_DURABLE, "after", 5, LONG_MS, NULL));
        OK(galerna_group_send(second.member.group, 0, GALERNA_MODE_DURABLE, "after, too", 10, LONG_MS, NULL));
    }
    member_wait(&first, has_all, &first);
    member_wait(&second.member, has_all, &second.member);
    CHECK(first.digest == second.member.digest && first.views == 1);

    OK(galerna_log_checkpoint_write(things.writer, "whole", 5));
    OK(galerna_log_checkpoint_commit(things.writer, LONG_MS));
    galerna_log_entry_free(things.entry);
    galerna_log_iter_free(things.iter);
    OK(galerna_log_close(things.log));
    OK(galerna_log_free(things.group_log));
    galerna_view_free(&things.view);
    galerna_config_free(things.config);
    /* A member that the application drives leaves first: later it is not driven, and could not take part in the other
     * member's leave. */
    member_leave(&first);
    member_leave(&second.member);
    remove_log(alone);
    snprintf(keys, sizeof keys, "rm -rf '%s'", folder);
    CHECK(system(keys) == 0);
    free(folder);
    free(toml);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    fabric = argv[1];
    fork_between(GALERNA_DRIVE_THREAD);
    fork_between(GALERNA_DRIVE_DISPATCH);
    return 0;
}
