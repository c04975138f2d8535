/* Makes every call with invalid arguments, which it must refuse, in a group of one member. Usage: arguments */
#include "cluster.h"

static void ignore(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
}

static const galerna_callbacks_t IGNORE = {.size = sizeof IGNORE, .deliver = ignore};

static int no_snapshot(void *context, galerna_snapshot_t *snapshot)
{
    (void)context;
    (void)snapshot;
    return 1;
}

static int no_restore(void *context, galerna_reader_t *reader)
{
    (void)context;
    (void)reader;
    return 1;
}

/* Every call that takes a group must return GALERNA_ERR_HANDLE. */
static void no_group(galerna_group_t *group)
{
    galerna_reservation_t reservation = {.size = sizeof reservation};
    galerna_group_stats_t stats = {.size = sizeof stats};
    galerna_view_t view = {.size = sizeof view, .member_count = 9};
    char text[8];
    size_t size;
    uint32_t id;
    int fd;
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_reserve(group, 0, 1, 0, &reservation));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_fd(group, &fd));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_dispatch(group));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_flush(group, 0, GALERNA_COPIES_ALL, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_stats(group, 0, &stats));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_view(group, &view));
    CHECK(view.members == NULL && view.member_count == 0);
    galerna_view_free(&view);
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_member(group, &id));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_fault(group, 1, text, sizeof text, &size));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_max_message(group, 0, &size));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_leave(group, 0));
}

static void texts(void)
{
    CHECK(strcmp(galerna_last_error(), "") == 0);
    CHECK(strlen(galerna_version()) >= 5);
    for (int code = -1; code < 100; code++) {
        CHECK(strlen(galerna_strerror((galerna_result_t)code)) > 0);
    }
    CHECK(strcmp(galerna_strerror(GALERNA_OK), "done") == 0);
    CHECK(strcmp(galerna_strerror(GALERNA_ERR_INTERNAL), "internal error") == 0);
    CHECK(strcmp(galerna_strerror(GALERNA_ERR_REMOVED), "removed from the group") == 0);
    CHECK(strcmp(galerna_strerror(11), galerna_strerror(100)) == 0);
}

static void configurations(void)
{
    galerna_config_t *config = (galerna_config_t *)&config;
    galerna_config_t *many[2000];
    size_t count = 0;
    char *toml = make_config("shm", 1, 1000);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_from_toml(NULL, &config));
    CHECK(config == NULL);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_from_toml(toml, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_from_file(NULL, &config));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_from_file("x", NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_from_toml("\xff", &config));
    EXPECT(GALERNA_ERR_IO, galerna_config_from_file("/nonexistent/galerna.toml", &config));
    expect_text("/nonexistent/galerna.toml");
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_from_toml("group = \"g\"\nmembers = []\nrings = 1\n", &config));
    expect_text("rings");
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_set_member(NULL, 1));
    galerna_config_free(NULL);
    OK(galerna_config_from_toml(toml, &config));
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_set_member(config, 99));
    expect_text("99");
    galerna_config_free(config);
    galerna_config_free(config);
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_set_member(config, 1));
    galerna_result_t result;
    while ((result = galerna_config_from_toml(toml, &many[count])) == GALERNA_OK) {
        count++;
        CHECK(count < 2000);
    }
    CHECK(result == GALERNA_ERR_LIMIT && count >= 1000);
    for (size_t i = 0; i < count; i++) {
        galerna_config_free(many[i]);
    }
    free(toml);
}

/* A program with an older header, without `durable`, works. The library does not read past its struct. */
static void former_callbacks(void)
{
    size_t size = offsetof(galerna_callbacks_t, durable);
    galerna_callbacks_t *callbacks = malloc(size);
    char *toml = make_config("shm", 1, LONG_MS);
    galerna_group_t *group;
    CHECK(callbacks != NULL);
    memcpy(callbacks, &IGNORE, size);
    callbacks->size = size;
    OK(join(toml, 1, callbacks, GALERNA_DRIVE_THREAD, &group));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    OK(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    free(callbacks);
    free(toml);
}

static void joins(void)
{
    galerna_group_t *group = (galerna_group_t *)&group;
    galerna_config_t *config;
    galerna_callbacks_t callbacks = IGNORE;
    char *toml = make_config("shm", 1, 1000);
    OK(galerna_config_from_toml(toml, &config));
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("member");
    CHECK(group == NULL);
    OK(galerna_config_set_member(config, 1));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_join(NULL, &callbacks, GALERNA_DRIVE_THREAD, &group));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, NULL, GALERNA_DRIVE_THREAD, &group));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, (galerna_drive_t)7, &group));
    const size_t sizes[] = {0, 1, offsetof(galerna_callbacks_t, view) - 1, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        callbacks.size = sizes[i];
        EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
        expect_text("galerna_callbacks_t");
    }
    callbacks = (galerna_callbacks_t){.size = sizeof callbacks};
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("deliver");
    /* `snapshot` without `restore` is refused, and so is `restore` without `snapshot`. */
    callbacks = IGNORE;
    callbacks.snapshot = no_snapshot;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("restore");
    callbacks = IGNORE;
    callbacks.restore = no_restore;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("snapshot");
    galerna_config_free(config);
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_join(config, &IGNORE, GALERNA_DRIVE_THREAD, &group));
    free(toml);
}

/* A handle that was not passed to a `restore` callback is not a reader. */
static void no_reader(galerna_reader_t *reader)
{
    char bytes[8];
    size_t got = 9;
    EXPECT(GALERNA_ERR_HANDLE, galerna_reader_read(reader, bytes, sizeof bytes, &got));
    CHECK(got == 0);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_reader_read(reader, NULL, 1, &got));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_reader_read(reader, bytes, SIZE_MAX, &got));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_reader_read(reader, bytes, sizeof bytes, NULL));
}

static void views(galerna_group_t *group)
{
    galerna_view_t view = {.size = 8}, copy, many[2000];
    size_t count = 0;
    uint32_t id = 0;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_view(group, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_view(group, &view));
    expect_text("galerna_view_t");
    view.size = sizeof view;
    OK(galerna_group_view(group, &view));
    CHECK(view.number == 0 && view.member_count == 1 && view.members[0] == 1 && view.rank == 0);
    CHECK(view.left_count == 0 && view.left != NULL && view.failed_count == 0 && view.failed != NULL);
    copy = view;
    galerna_view_free(&view);
    CHECK(view.members == NULL && view.member_count == 0 && view.size == sizeof view);
    galerna_view_free(&view);
    galerna_view_free(&copy);
    galerna_view_free(NULL);
    OK(galerna_group_member(group, &id));
    CHECK(id == 1);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_member(group, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_member(group, (uint32_t *)((char *)&id + 1)));
    galerna_result_t result;
    for (many[0].size = sizeof view; (result = galerna_group_view(group, &many[count])) == GALERNA_OK;) {
        count++;
        CHECK(count < 2000);
        many[count].size = sizeof view;
    }
    CHECK(result == GALERNA_ERR_LIMIT && count >= 1000 && many[count].members == NULL);
    for (size_t i = 0; i < count; i++) {
        CHECK(many[i].members[0] == 1);
        galerna_view_free(&many[i]);
    }
}

static void faults(galerna_group_t *group)
{
    char text[4] = "abc";
    size_t length = 9;
    OK(galerna_group_fault(group, 1, text, sizeof text, &length));
    CHECK(length == 0 && text[0] == '\0' && text[1] == 'b');
    OK(galerna_group_fault(group, 99, text, 1, NULL));
    OK(galerna_group_fault(group, 99, NULL, 0, &length));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_fault(group, 1, NULL, 1, &length));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_fault(group, 1, text, sizeof text, (size_t *)((char *)&length + 1)));
}

static void queries(galerna_group_t *group)
{
    galerna_group_stats_t stats = {.size = 8};
    size_t most = 0;
    OK(galerna_group_max_message(group, 0, &most));
    CHECK(most == 4000);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_max_message(group, 0, NULL));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_max_message(group, 7, &most));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_stats(group, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_stats(group, 0, &stats));
    stats.size = sizeof stats;
    OK(galerna_group_stats(group, 0, &stats));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_stats(group, 7, &stats));
    expect_text("7");
}

/* The calls for logs, in a group without a log. */
static void no_log(galerna_group_t *group)
{
    galerna_group_frontiers_t frontiers = {.size = 8};
    galerna_version_t version = {1, 1};
    galerna_log_t *log = (galerna_log_t *)&log;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_frontiers(group, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_frontiers(group, 0, &frontiers));
    frontiers.size = sizeof frontiers;
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_frontiers(NULL, 0, &frontiers));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_frontiers(group, 7, &frontiers));
    frontiers.durable = frontiers.closed_ns = 9;
    OK(galerna_group_frontiers(group, 0, &frontiers));
    CHECK(frontiers.size == sizeof frontiers && frontiers.durable == 0 && frontiers.closed_ns == 0);
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait_durable(group, 0, 0, 0));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait_closed(group, 0, 0, 0));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_persist(group, 0, 0));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_checkpoint(group, 0, 0, &version));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_checkpoint(group, 0, 0, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_trim_log(group, 0, version));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_log(group, 0, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_log(group, 0, &log));
    expect_text("no log");
    CHECK(log == NULL);
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_persist(group, 7, 0));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_log(group, 7, &log));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_wait_durable(NULL, 0, 0, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_wait_closed(NULL, 0, 0, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_persist(NULL, 0, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_checkpoint(NULL, 0, 0, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_trim_log(NULL, 0, version));
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_log(NULL, 0, &log));
}

static void sends(galerna_group_t *group)
{
    static const char bytes[4001];
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_send(group, 0, GALERNA_MODE_SAFE, NULL, 1, 0, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_send(group, 0, GALERNA_MODE_DURABLE, "x", 1, 0, NULL));
    expect_text("log");
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_send(group, 0, (galerna_mode_t)4, "x", 1, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_send(group, 0, (galerna_mode_t)-1, "x", 1, 0, NULL));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_send(group, 7, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_group_send(group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 0, NULL));
    expect_text("4001");
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_group_send(group, 0, GALERNA_MODE_SAFE, bytes, SIZE_MAX, LONG_MS, NULL));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_flush(group, 7, GALERNA_COPIES_ALL, 0));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, NULL, 0, LONG_MS, NULL));
    OK(galerna_group_send(group, 0, GALERNA_MODE_ORDERED, bytes, 4000, LONG_MS, NULL));
    OK(galerna_group_send(group, 0, GALERNA_MODE_FIFO, "x", 1, LONG_MS, NULL));
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
}

/* A reservation with any one byte changed must be refused. */
static void corrupted(galerna_group_t *group, const galerna_reservation_t *open)
{
    for (size_t i = sizeof open->size; i < sizeof *open; i++) {
        galerna_reservation_t copy = *open;
        ((unsigned char *)&copy)[i] ^= 0x41;
        EXPECT(GALERNA_ERR_MISUSE, galerna_group_commit(group, &copy, GALERNA_MODE_SAFE, NULL));
        EXPECT(GALERNA_ERR_MISUSE, galerna_group_abandon(group, &copy));
    }
}

static void reservations(galerna_group_t *group, galerna_group_t *other)
{
    galerna_reservation_t reservation = {.size = 0};
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_reserve(group, 0, 8, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_reserve(group, 0, 8, 0, &reservation));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_commit(group, NULL, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_abandon(group, NULL));
    reservation.size = sizeof reservation;
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_group_reserve(group, 0, 4001, 0, &reservation));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_group_reserve(group, 7, 8, 0, &reservation));
    CHECK(reservation.data == NULL);

    OK(galerna_group_reserve(group, 0, 24, LONG_MS, &reservation));
    CHECK(reservation.data != NULL && reservation.length == 24);
    memset(reservation.data, 'r', reservation.length);
    corrupted(group, &reservation);
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_commit(other, &reservation, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_group_commit(group, &reservation, (galerna_mode_t)9, NULL));
    galerna_reservation_t copy = reservation;
    OK(galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL));
    CHECK(reservation.data == NULL && reservation.length == 0 && reservation.size == sizeof reservation);
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_commit(group, &reservation, GALERNA_MODE_SAFE, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_commit(group, &copy, GALERNA_MODE_SAFE, NULL));

    OK(galerna_group_reserve(group, 0, 0, LONG_MS, &reservation));
    CHECK(reservation.data != NULL && reservation.length == 0);
    OK(galerna_group_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_abandon(group, &reservation));
    OK(galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
}

static void after_leave(galerna_group_t *group, galerna_drive_t drive)
{
    galerna_reservation_t reservation = {.size = sizeof reservation};
    galerna_group_stats_t stats = {.size = sizeof stats};
    galerna_view_t view = {.size = sizeof view};
    int fd;
    galerna_result_t undriven = drive == GALERNA_DRIVE_THREAD ? GALERNA_ERR_MISUSE : GALERNA_ERR_LEFT;
    OK(galerna_group_leave(group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_leave(group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_reserve(group, 0, 1, LONG_MS, &reservation));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    EXPECT(undriven, galerna_group_dispatch(group));
    EXPECT(undriven, galerna_group_fd(group, &fd));
    OK(galerna_group_stats(group, 0, &stats));
    CHECK(stats.messages_sent > 0);
    OK(galerna_group_view(group, &view));
    CHECK(view.member_count == 1);
    galerna_view_free(&view);
}

/* The leave waits for the open reservation, then drops it. Its bytes stay valid until the handle is freed. */
static void leave_with_open_reservation(galerna_group_t *group)
{
    galerna_reservation_t open = {.size = sizeof open};
    OK(galerna_group_reserve(group, 0, 8, LONG_MS, &open));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    OK(galerna_group_leave(group, 4000));
    memset(open.data, 1, open.length);
    EXPECT(GALERNA_ERR_LEFT, galerna_group_commit(group, &open, GALERNA_MODE_SAFE, NULL));
    CHECK(open.data == NULL);
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_abandon(group, &open));
}

static void alone(const char *fabric, galerna_drive_t drive)
{
    galerna_group_t *group, *other;
    char *toml = make_config(fabric, 1, LONG_MS);
    char *other_toml = make_config(fabric, 1, LONG_MS);
    OK(join(toml, 1, &IGNORE, drive, &group));
    OK(join(other_toml, 1, &IGNORE, drive, &other));
    queries(group);
    views(group);
    faults(group);
    sends(group);
    no_log(group);
    reservations(group, other);
    after_leave(group, drive);
    OK(galerna_group_free(group));
    OK(galerna_group_free(group));
    no_group(group);
    /* The slot of the handle is reused. The old handle must still be invalid. */
    free(toml);
    toml = make_config(fabric, 1, LONG_MS);
    galerna_group_t *old = group;
    OK(join(toml, 1, &IGNORE, drive, &group));
    CHECK(group != old);
    OK(galerna_group_free(old));
    no_group(old);
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS, NULL));
    leave_with_open_reservation(group);
    OK(galerna_group_free(group));
    OK(galerna_group_free(other));
    free(toml);
    free(other_toml);
}

int main(void)
{
    galerna_config_t *config;
    uint64_t word = 0;
    texts();
    configurations();
    joins();
    former_callbacks();
    no_reader(NULL);
    no_reader((galerna_reader_t *)(uintptr_t)15);
    OK(galerna_group_free(NULL));
    no_group(NULL);
    no_group((galerna_group_t *)&word);
    no_group((galerna_group_t *)(uintptr_t)0x1003);
    no_group((galerna_group_t *)UINTPTR_MAX);
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_free((galerna_group_t *)&word));
    char *toml = make_config("shm", 1, 1000);
    OK(galerna_config_from_toml(toml, &config));
    no_group((galerna_group_t *)config);
    galerna_config_free(config);
    free(toml);
    alone("shm", GALERNA_DRIVE_THREAD);
    alone("shm", GALERNA_DRIVE_DISPATCH);
    alone("tcp", GALERNA_DRIVE_THREAD);
    alone("tcp", GALERNA_DRIVE_DISPATCH);
    return 0;
}
