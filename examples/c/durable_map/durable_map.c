/*
 * A replicated, durable key-value map: an acknowledged change is on the disks of all members, and survives a crash of
 * all of them at the same time. See README.md. The map itself is in map.c.
 *
 * Usage: durable_map CONFIG.toml MEMBER, and then on standard input
 *
 *     put KEY VALUE   sets a key, and prints "ok KEY" once the change is durable
 *     get KEY         prints "KEY VALUE", or "none KEY"
 *     dump            prints all keys with their values, and "end COUNT"
 *     checkpoint      stores the map on disk, and deletes the log before it
 *
 * At the end of the input the member leaves. A thread of the library drives the group and runs the callbacks.
 */
#define _POSIX_C_SOURCE 200809L
#include "map.h"

#include <galerna.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SUBGROUP 0u
#define TIMEOUT_MS 60000u
#define LEAVE_TIMEOUT_MS 10000u

typedef struct {
    galerna_group_t *group;
    /* Identifies the messages of this run of the process. Messages of earlier runs are not waited for. */
    uint64_t life;
    /* Protects the fields below. Callbacks write them, and the main thread waits for them to change. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    map_t map;
    /* Whether a put of this process has been sent and is not durable yet. */
    bool waiting;
    bool stopped;
    char reason[512];
} store_t;

/* A copy of the map for a checkpoint or a joining process. */
typedef struct {
    char *text;
    size_t length, position;
} copy_t;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "durable_map: %s: %s\n", what, why);
    exit(1);
}

static void check(galerna_result_t result, const char *what)
{
    if (result != GALERNA_OK) {
        fail(what, galerna_last_error());
    }
}

/* A message consists of the life number of its sender, followed by "KEY VALUE". It is delivered once it is on the
 * members' disks. After a restart, the messages of the log after the last checkpoint are delivered again. */
static void deliver(void *context, const galerna_message_t *message)
{
    store_t *store = context;
    uint64_t life;
    if (message->length < sizeof life) {
        return;
    }
    memcpy(&life, message->payload, sizeof life);
    pthread_mutex_lock(&store->lock);
    if (!map_put(&store->map, (const char *)message->payload + sizeof life, message->length - sizeof life)) {
        /* Without this put the map would differ from those of the other members. */
        fail("a put", "the message is not a key and a value, or no memory is left");
    }
    if (life == store->life) {
        store->waiting = false;
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(&store->lock);
}

static void stopped(void *context, galerna_result_t code, const char *text)
{
    store_t *store = context;
    (void)code;
    pthread_mutex_lock(&store->lock);
    store->stopped = true;
    snprintf(store->reason, sizeof store->reason, "%s", text);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

/* Called in another thread than the callbacks. */
static ptrdiff_t read_copy(void *context, void *buffer, size_t length)
{
    copy_t *copy = context;
    size_t left = copy->length - copy->position;
    size_t some = left < length ? left : length;
    memcpy(buffer, copy->text + copy->position, some);
    copy->position += some;
    return (ptrdiff_t)some;
}

static void free_copy(void *context)
{
    copy_t *copy = context;
    free(copy->text);
    free(copy);
}

/* Called for a checkpoint, or for a joining process. */
static int snapshot(void *context, galerna_snapshot_t *out)
{
    store_t *store = context;
    copy_t *copy = calloc(1, sizeof *copy);
    if (copy == NULL) {
        return ENOMEM;
    }
    pthread_mutex_lock(&store->lock);
    copy->text = map_text(&store->map, &copy->length);
    pthread_mutex_unlock(&store->lock);
    if (copy->text == NULL) {
        free(copy);
        return ENOMEM;
    }
    out->context = copy;
    out->read = read_copy;
    out->free = free_copy;
    return 0;
}

/* Called with the last checkpoint after a restart. The messages of the log after it are delivered next. */
static int restore(void *context, galerna_reader_t *reader)
{
    store_t *store = context;
    size_t length = 0, capacity = 1 << 16, got;
    char *text = malloc(capacity);
    for (;;) {
        if (text == NULL) {
            return ENOMEM;
        }
        if (galerna_reader_read(reader, text + length, capacity - length, &got) != GALERNA_OK) {
            free(text);
            return EIO;
        }
        length += got;
        if (length < capacity) {
            break;
        }
        char *larger = realloc(text, capacity *= 2);
        if (larger == NULL) {
            free(text);
        }
        text = larger;
    }
    pthread_mutex_lock(&store->lock);
    bool taken = map_take(&store->map, text, length);
    pthread_mutex_unlock(&store->lock);
    free(text);
    return taken ? 0 : EINVAL;
}

/* When this returns, the map contains all changes of the group's log. */
static void join(store_t *store, const char *path, uint32_t member)
{
    struct timespec now;
    galerna_callbacks_t callbacks = {.size = sizeof callbacks,
                                     .deliver = deliver,
                                     .stopped = stopped,
                                     .context = store,
                                     .snapshot = snapshot,
                                     .restore = restore};
    galerna_config_t *config;
    clock_gettime(CLOCK_REALTIME, &now);
    store->life = ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) ^ (uint64_t)getpid() << 48;
    check(galerna_config_from_file(path, &config), "configuration");
    check(galerna_config_set_member(config, member), "configuration");
    check(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &store->group), "join");
    galerna_config_free(config);
}

/* Returns once the put is durable and in the map. */
static void put(store_t *store, const char *text)
{
    size_t length = strlen(text);
    galerna_reservation_t message = {.size = sizeof message};
    check(galerna_group_reserve(store->group, SUBGROUP, sizeof store->life + length, TIMEOUT_MS, &message), "put");
    memcpy(message.data, &store->life, sizeof store->life);
    memcpy((char *)message.data + sizeof store->life, text, length);
    pthread_mutex_lock(&store->lock);
    store->waiting = true;
    pthread_mutex_unlock(&store->lock);
    check(galerna_group_commit(store->group, &message, GALERNA_MODE_DURABLE, NULL), "put");
    pthread_mutex_lock(&store->lock);
    while (store->waiting && !store->stopped) {
        pthread_cond_wait(&store->changed, &store->lock);
    }
    if (store->waiting) {
        fail("the group stopped", store->reason);
    }
    pthread_mutex_unlock(&store->lock);
    printf("ok %.*s\n", (int)strcspn(text, " "), text);
}

static void get(store_t *store, const char *key)
{
    pthread_mutex_lock(&store->lock);
    const char *value = map_get(&store->map, key);
    if (value != NULL) {
        printf("%s %s\n", key, value);
    } else {
        printf("none %s\n", key);
    }
    pthread_mutex_unlock(&store->lock);
}

static void dump(store_t *store)
{
    size_t length;
    pthread_mutex_lock(&store->lock);
    char *text = map_text(&store->map, &length);
    size_t count = store->map.count;
    pthread_mutex_unlock(&store->lock);
    if (text == NULL) {
        fail("dump", strerror(ENOMEM));
    }
    fwrite(text, 1, length, stdout);
    printf("end %zu\n", count);
    free(text);
}

static void checkpoint(store_t *store)
{
    galerna_version_t version;
    check(galerna_group_checkpoint(store->group, SUBGROUP, TIMEOUT_MS, &version), "checkpoint");
    check(galerna_group_trim_log(store->group, SUBGROUP, version), "trim");
    printf("checkpoint %" PRIu64 ".%" PRIu64 "\n", version.view, version.sequence);
}

static void obey(store_t *store, const char *line)
{
    const char *argument = strchr(line, ' ');
    argument = argument != NULL ? argument + 1 : "";
    size_t key_length = strcspn(argument, " ");
    if (strncmp(line, "put ", 4) == 0 && key_length > 0 && argument[key_length] == ' ') {
        put(store, argument);
    } else if (strncmp(line, "get ", 4) == 0 && key_length > 0 && argument[key_length] == '\0') {
        get(store, argument);
    } else if (strcmp(line, "dump") == 0) {
        dump(store);
    } else if (strcmp(line, "checkpoint") == 0) {
        checkpoint(store);
    } else {
        printf("error: no command: put KEY VALUE, get KEY, dump, checkpoint\n");
    }
}

int main(int argc, char **argv)
{
    static store_t store = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    char *end, *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    unsigned long member = argc == 3 ? strtoul(argv[2], &end, 10) : 0;
    if (argc != 3 || *argv[2] < '0' || *argv[2] > '9' || *end != '\0' || member > UINT32_MAX) {
        fprintf(stderr, "usage: durable_map CONFIG.toml MEMBER\n");
        return 2;
    }
    /* Line buffering, so that a program that reads the output gets each line at once. */
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    join(&store, argv[1], (uint32_t)member);
    while ((length = getline(&line, &capacity, stdin)) >= 0) {
        if (length > 0 && line[length - 1] == '\n') {
            line[length - 1] = '\0';
        }
        obey(&store, line);
    }
    free(line);
    check(galerna_group_leave(store.group, LEAVE_TIMEOUT_MS), "leave");
    galerna_group_free(store.group);
    map_clear(&store.map);
    return 0;
}
