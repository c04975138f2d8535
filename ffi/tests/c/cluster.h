/* Shared by the tests: checks, configurations with free addresses, and members that record their callbacks. */
#ifndef CLUSTER_H
#define CLUSTER_H

#include <galerna.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_MS 60000u

/* Ends the test unless `condition` holds. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Ends the test unless `call` returns `expected`. */
#define EXPECT(expected, call) expect(expected, call, #call, __FILE__, __LINE__)
#define OK(call) EXPECT(GALERNA_OK, call)

void expect(galerna_result_t expected, galerna_result_t got, const char *call, const char *file, int line);

/* Ends the test unless the last error's text contains `part`. */
void expect_text(const char *part);

/* Makes a configuration of `members` members with ids 1, 2, ... on "tcp" or "shm", to be freed with free(). Its
 * timeouts are so long that no member is suspected because the machine is busy. */
char *make_config(const char *fabric, unsigned members, unsigned join_timeout_ms);

/* The same with the given keys, and with the default timeouts. */
char *make_config_with(const char *fabric, unsigned members, unsigned join_timeout_ms, const char *keys);

/* Joins as member `id` of such a configuration. */
galerna_result_t join(const char *toml, uint32_t id, const galerna_callbacks_t *callbacks, galerna_drive_t drive,
                      galerna_group_t **out);

#define MEMBERS_MOST 8

/* A list of member ids. */
typedef struct {
    size_t count;
    uint32_t ids[MEMBERS_MOST];
} ids_t;

/* A member, and a record of its callbacks. */
typedef struct {
    galerna_group_t *group;
    galerna_drive_t drive;
    pthread_mutex_t lock;
    size_t delivered;
    uint64_t digest;
    /* The view in which the last message was delivered. */
    uint64_t delivered_in;
    size_t views;
    /* The last view. */
    uint64_t view;
    size_t rank;
    ids_t members, joined, left, failed;
    galerna_result_t stopped;
    char reason[256];
} member_t;

/* Joins, and records the callbacks in `member`. */
void member_join(member_t *member, const char *toml, uint32_t id, galerna_drive_t drive);

/* Records a message, for tests with a `deliver` callback of their own. */
void member_deliver(void *member, const galerna_message_t *message);
void member_stopped(void *member, galerna_result_t code, const char *text);
void member_view(void *member, const galerna_view_t *view);

size_t member_delivered(member_t *member);
galerna_result_t member_stop_code(member_t *member);
uint64_t member_view_number(member_t *member);

/* Whether a list consists of exactly `count` ids: the first `count` of `a`, `b` and `c`. */
bool are(const ids_t *ids, size_t count, uint32_t a, uint32_t b, uint32_t c);

/* Waits until `done` returns true. Drives the group in the meantime if the application has to drive it. */
void member_wait(member_t *member, bool (*done)(void *), void *argument);

/* Leaves the group and frees the member. */
void member_leave(member_t *member);

#endif
