/* The log callback receives the library's log lines. Usage: log_callback */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define ROUNDS 10

/* The lines that a callback has received. */
typedef struct {
    atomic_int lines;
    atomic_int dropped;
    atomic_int most_level;
    /* 1 while this is the callback's context. */
    atomic_int live;
} lines_t;

static void line(void *context, galerna_log_level_t level, const char *target, const char *text)
{
    lines_t *lines = context;
    galerna_config_t *config;
    CHECK(atomic_load(&lines->live) == 1);
    CHECK(strncmp(target, "galerna::", 9) == 0);
    CHECK(strlen(text) > 0 && strchr(text, '\n') == NULL);
    atomic_fetch_add(&lines->lines, 1);
    int most = atomic_load(&lines->most_level);
    while (most < (int)level && !atomic_compare_exchange_weak(&lines->most_level, &most, (int)level)) {
    }
    if (strstr(text, "reservations that were still open") != NULL) {
        CHECK(level == GALERNA_LOG_LEVEL_WARN && strstr(text, " dropped=1") != NULL);
        atomic_fetch_add(&lines->dropped, 1);
    }
    /* The library may hold locks now, so it refuses calls. */
    EXPECT(GALERNA_ERR_MISUSE, galerna_config_new("c-test", &config));
    expect_text("log callback");
    EXPECT(GALERNA_ERR_MISUSE, galerna_set_log_callback(GALERNA_LOG_LEVEL_ERROR, NULL, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_send(NULL, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    CHECK(strcmp(galerna_result_name(GALERNA_OK), "GALERNA_OK") == 0 && strlen(galerna_version()) > 0);
}

static void deliver(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
    EXPECT(GALERNA_ERR_MISUSE, galerna_set_log_callback(GALERNA_LOG_LEVEL_ERROR, NULL, NULL));
    expect_text("callback");
}

/* Leaves a group with an open reservation, which the library warns of. */
static void warn(const char *toml)
{
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    galerna_reservation_t open = {.size = sizeof open};
    galerna_group_t *group;
    callbacks.deliver = deliver;
    OK(join(toml, 1, &callbacks, GALERNA_DRIVE_THREAD, &group));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    OK(galerna_group_reserve(group, 0, 8, LONG_MS, &open));
    galerna_result_t result = galerna_group_leave(group, 400);
    CHECK(result == GALERNA_OK || result == GALERNA_ERR_TIMED_OUT);
    OK(galerna_group_free(group));
}

static void *warn_often(void *toml)
{
    for (int i = 0; i < ROUNDS / 5; i++) {
        warn(toml);
    }
    return NULL;
}

static void invalid_arguments(lines_t *lines)
{
    const int32_t levels[] = {INT32_MIN, -1, 0, 6, INT32_MAX};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        EXPECT(GALERNA_ERR_ARGUMENT, galerna_set_log_callback((galerna_log_level_t)levels[i], line, lines));
        expect_text("level");
    }
    OK(galerna_set_log_callback((galerna_log_level_t)0, NULL, NULL));
}

/* The context can be freed as soon as another callback is set. */
static void replaced_while_in_use(void)
{
    pthread_t threads[THREADS];
    char *tomls[THREADS];
    struct timespec pause = {.tv_nsec = 20000000};
    lines_t *present = NULL;
    for (int i = 0; i < THREADS; i++) {
        tomls[i] = make_config("shm", 1, LONG_MS);
        CHECK(pthread_create(&threads[i], NULL, warn_often, tomls[i]) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        lines_t *next = calloc(1, sizeof *next);
        CHECK(next != NULL);
        atomic_store(&next->live, 1);
        OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_TRACE, line, next));
        if (present != NULL) {
            atomic_store(&present->live, 0);
            free(present);
        }
        present = next;
        nanosleep(&pause, NULL);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        free(tomls[i]);
    }
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_TRACE, NULL, NULL));
    free(present);
}

/* A forked child inherits the callback, and can remove it. */
static void in_a_child(lines_t *lines)
{
    int status;
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, line, lines));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, NULL, NULL) == GALERNA_OK ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, NULL, NULL));
}

int main(void)
{
    lines_t warnings = {.live = 1}, errors = {.live = 1};
    char *toml = make_config("shm", 1, LONG_MS);
    invalid_arguments(&warnings);
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, line, &warnings));
    warn(toml);
    CHECK(atomic_load(&warnings.dropped) == 1 && atomic_load(&warnings.most_level) == GALERNA_LOG_LEVEL_WARN);
    /* The level filters. */
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_ERROR, line, &errors));
    warn(toml);
    CHECK(atomic_load(&errors.dropped) == 0 && atomic_load(&errors.most_level) <= GALERNA_LOG_LEVEL_ERROR);
    CHECK(atomic_load(&warnings.dropped) == 1);
    /* NULL removes the callback. It can be set again. */
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_TRACE, NULL, NULL));
    warn(toml);
    CHECK(atomic_load(&warnings.dropped) == 1 && atomic_load(&errors.dropped) == 0);
    OK(galerna_set_log_callback(GALERNA_LOG_LEVEL_TRACE, line, &warnings));
    warn(toml);
    CHECK(atomic_load(&warnings.dropped) == 2);
    in_a_child(&warnings);
    replaced_while_in_use();
    free(toml);
    return 0;
}
