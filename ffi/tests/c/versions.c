/* A program that is compiled with the header of an older or a newer version, or with the present one. With OLDER the
 * header lacks the last fields of each struct. With NEWER each struct ends with a field `added`. */
#include <galerna.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_MS 60000u
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, galerna_last_error());                  \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK((call) == GALERNA_OK)

static size_t delivered, views;

static void deliver(void *context, const galerna_message_t *message)
{
    (void)context;
    CHECK(message->size > 0 && GALERNA_HAS(message, sequence) && message->length == 5);
#ifdef NEWER
    CHECK(!GALERNA_HAS(message, added));
#endif
    delivered++;
}

static void view(void *context, const galerna_view_t *view)
{
    (void)context;
    CHECK(GALERNA_HAS(view, voter_count) && view->member_count == 1 && view->voters[0] == 1);
#ifdef NEWER
    CHECK(!GALERNA_HAS(view, added));
#endif
    views++;
}

/* Fills a struct with garbage, followed by bytes that the library must not touch. */
#define GUARDED(type, name)                                                                                            \
    struct {                                                                                                           \
        type it;                                                                                                       \
        unsigned char guard[64];                                                                                       \
    } name;                                                                                                            \
    memset(&name, 0xa5, sizeof name);                                                                                  \
    name.it.size = sizeof name.it

static void untouched(const unsigned char *guard)
{
    for (size_t i = 0; i < 64; i++) {
        CHECK(guard[i] == 0xa5);
    }
}

static void outputs(galerna_group_t *group)
{
    GUARDED(galerna_view_t, now);
    GUARDED(galerna_group_stats_t, stats);
    GUARDED(galerna_group_frontiers_t, frontiers);
    OK(galerna_group_view(group, &now.it));
    CHECK(now.it.size == sizeof now.it && now.it.member_count == 1 && now.it.members[0] == 1);
    /* The counters may be some passes of the engine old. */
    for (int i = 0; i < 100000; i++) {
        OK(galerna_group_stats(group, 0, &stats.it));
        if (stats.it.messages_sent > 0) {
            break;
        }
        OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    }
    CHECK(stats.it.size == sizeof stats.it && stats.it.messages_sent == 1 && stats.it.bytes_sent == 5);
    OK(galerna_group_frontiers(group, 0, &frontiers.it));
    CHECK(frontiers.it.size == sizeof frontiers.it && frontiers.it.stable == 0);
#ifdef NEWER
    CHECK(now.it.added == 0 && stats.it.added == 0 && frontiers.it.added == 0);
#endif
    galerna_view_free(&now.it);
    CHECK(now.it.size == sizeof now.it && now.it.members == NULL);
    untouched(now.guard);
    untouched(stats.guard);
    untouched(frontiers.guard);
}

/* The argument is the path of the member's socket. */
int main(int argc, char **argv)
{
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .view = view};
    galerna_config_t *config;
    galerna_group_t *group;
    char toml[1024];
    CHECK(argc == 2);
    snprintf(toml, sizeof toml,
             "group = \"versions\"\nfabric = \"shm\"\nmember = 1\n[[members]]\nid = 1\naddress = \"unix:%s\"\n", argv[1]);
    OK(galerna_config_from_toml(toml, &config));
#ifdef NEWER
    callbacks.added = 1;
    CHECK(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group) == GALERNA_ERR_ARGUMENT);
    CHECK(strstr(galerna_last_error(), "newer version") != NULL);
    callbacks.added = 0;
#endif
    OK(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    galerna_config_free(config);
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "hello", 5, LONG_MS, NULL));
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    outputs(group);
    OK(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    CHECK(delivered == 1 && views >= 1);
    return 0;
}
