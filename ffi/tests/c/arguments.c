/* Every call with arguments that it must refuse, alone in a group of one. Usage: arguments */
#include "cluster.h"

static void ignore(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
}

static const galerna_callbacks_t IGNORE = {sizeof IGNORE, ignore, NULL, NULL};

/* Every call that takes a group must say GALERNA_ERR_HANDLE. */
static void no_group(galerna_group_t *group)
{
    galerna_reservation_t reservation = {.size = sizeof reservation};
    galerna_stats_t stats = {.size = sizeof stats};
    size_t size;
    uint32_t id;
    int fd;
    EXPECT(GALERNA_ERR_HANDLE, galerna_send(group, 0, GALERNA_MODE_SAFE, "x", 1, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_reserve(group, 0, 1, 0, &reservation));
    EXPECT(GALERNA_ERR_HANDLE, galerna_commit(group, &reservation, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_HANDLE, galerna_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_HANDLE, galerna_fd(group, &fd));
    EXPECT(GALERNA_ERR_HANDLE, galerna_dispatch(group));
    EXPECT(GALERNA_ERR_HANDLE, galerna_flush(group, 0, 0, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_stats(group, 0, &stats));
    EXPECT(GALERNA_ERR_HANDLE, galerna_members(group, &id, 1, &size));
    EXPECT(GALERNA_ERR_HANDLE, galerna_rank(group, &size));
    EXPECT(GALERNA_ERR_HANDLE, galerna_max_message(group, 0, &size));
    EXPECT(GALERNA_ERR_HANDLE, galerna_leave(group, 0));
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

static void joins(void)
{
    galerna_group_t *group = (galerna_group_t *)&group;
    galerna_config_t *config;
    galerna_callbacks_t callbacks = IGNORE;
    char *toml = make_config("shm", 1, 1000);
    OK(galerna_config_from_toml(toml, &config));
    EXPECT(GALERNA_ERR_CONFIG, galerna_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("member");
    CHECK(group == NULL);
    OK(galerna_config_set_member(config, 1));
    EXPECT(GALERNA_ERR_HANDLE, galerna_join(NULL, &callbacks, GALERNA_DRIVE_THREAD, &group));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_join(config, NULL, GALERNA_DRIVE_THREAD, &group));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_join(config, &callbacks, GALERNA_DRIVE_THREAD, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_join(config, &callbacks, (galerna_drive_t)7, &group));
    const size_t sizes[] = {0, 1, sizeof callbacks - 1, sizeof callbacks + 1, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        callbacks.size = sizes[i];
        EXPECT(GALERNA_ERR_ARGUMENT, galerna_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
        expect_text("galerna_callbacks_t");
    }
    callbacks = (galerna_callbacks_t){sizeof callbacks, NULL, NULL, NULL};
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("deliver");
    galerna_config_free(config);
    EXPECT(GALERNA_ERR_HANDLE, galerna_join(config, &IGNORE, GALERNA_DRIVE_THREAD, &group));
    free(toml);
}

static void queries(galerna_group_t *group)
{
    galerna_stats_t stats = {.size = 8};
    size_t count, rank = 9, most = 0;
    uint32_t id = 0;
    OK(galerna_members(group, NULL, 0, &count));
    CHECK(count == 1);
    OK(galerna_members(group, &id, 1, &count));
    CHECK(count == 1 && id == 1);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_members(group, NULL, 1, &count));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_members(group, &id, 1, NULL));
    OK(galerna_rank(group, &rank));
    CHECK(rank == 0);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_rank(group, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_rank(group, (size_t *)((char *)&rank + 1)));
    OK(galerna_max_message(group, 0, &most));
    CHECK(most == 4000);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_max_message(group, 0, NULL));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_max_message(group, 7, &most));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_stats(group, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_stats(group, 0, &stats));
    stats.size = sizeof stats;
    OK(galerna_stats(group, 0, &stats));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_stats(group, 7, &stats));
    expect_text("7");
}

static void sends(galerna_group_t *group)
{
    static const char bytes[4001];
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_send(group, 0, GALERNA_MODE_SAFE, NULL, 1, 0));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_send(group, 0, (galerna_mode_t)3, "x", 1, 0));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_send(group, 0, (galerna_mode_t)-1, "x", 1, 0));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_send(group, 7, GALERNA_MODE_SAFE, "x", 1, 0));
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_send(group, 0, GALERNA_MODE_SAFE, bytes, sizeof bytes, 0));
    expect_text("4001");
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_send(group, 0, GALERNA_MODE_SAFE, bytes, SIZE_MAX, LONG_MS));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_flush(group, 7, 0, 0));
    OK(galerna_send(group, 0, GALERNA_MODE_SAFE, NULL, 0, LONG_MS));
    OK(galerna_send(group, 0, GALERNA_MODE_ORDERED, bytes, 4000, LONG_MS));
    OK(galerna_send(group, 0, GALERNA_MODE_FIFO, "x", 1, LONG_MS));
    OK(galerna_flush(group, 0, 0, LONG_MS));
}

/* A reservation of which one byte is changed, whichever it is, is refused. */
static void corrupted(galerna_group_t *group, const galerna_reservation_t *open)
{
    for (size_t i = sizeof open->size; i < sizeof *open; i++) {
        galerna_reservation_t copy = *open;
        ((unsigned char *)&copy)[i] ^= 0x41;
        EXPECT(GALERNA_ERR_MISUSE, galerna_commit(group, &copy, GALERNA_MODE_SAFE));
        EXPECT(GALERNA_ERR_MISUSE, galerna_abandon(group, &copy));
    }
}

static void reservations(galerna_group_t *group, galerna_group_t *other)
{
    galerna_reservation_t reservation = {.size = 0};
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_reserve(group, 0, 8, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_reserve(group, 0, 8, 0, &reservation));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_commit(group, NULL, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_commit(group, &reservation, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_abandon(group, NULL));
    reservation.size = sizeof reservation;
    EXPECT(GALERNA_ERR_MISUSE, galerna_commit(group, &reservation, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_MESSAGE_TOO_LARGE, galerna_reserve(group, 0, 4001, 0, &reservation));
    EXPECT(GALERNA_ERR_UNKNOWN_SUBGROUP, galerna_reserve(group, 7, 8, 0, &reservation));
    CHECK(reservation.data == NULL);

    OK(galerna_reserve(group, 0, 24, LONG_MS, &reservation));
    CHECK(reservation.data != NULL && reservation.length == 24);
    memset(reservation.data, 'r', reservation.length);
    corrupted(group, &reservation);
    EXPECT(GALERNA_ERR_MISUSE, galerna_commit(other, &reservation, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_commit(group, &reservation, (galerna_mode_t)9));
    galerna_reservation_t copy = reservation;
    OK(galerna_commit(group, &reservation, GALERNA_MODE_SAFE));
    CHECK(reservation.data == NULL && reservation.length == 0 && reservation.size == sizeof reservation);
    EXPECT(GALERNA_ERR_MISUSE, galerna_commit(group, &reservation, GALERNA_MODE_SAFE));
    EXPECT(GALERNA_ERR_MISUSE, galerna_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_MISUSE, galerna_commit(group, &copy, GALERNA_MODE_SAFE));

    OK(galerna_reserve(group, 0, 0, LONG_MS, &reservation));
    CHECK(reservation.data != NULL && reservation.length == 0);
    OK(galerna_abandon(group, &reservation));
    EXPECT(GALERNA_ERR_MISUSE, galerna_abandon(group, &reservation));
    OK(galerna_flush(group, 0, 0, LONG_MS));
}

static void after_leave(galerna_group_t *group, galerna_drive_t drive)
{
    galerna_reservation_t reservation = {.size = sizeof reservation};
    galerna_stats_t stats = {.size = sizeof stats};
    size_t size;
    int fd;
    galerna_result_t undriven = drive == GALERNA_DRIVE_THREAD ? GALERNA_ERR_MISUSE : GALERNA_ERR_LEFT;
    OK(galerna_leave(group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_leave(group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_reserve(group, 0, 1, LONG_MS, &reservation));
    EXPECT(GALERNA_ERR_LEFT, galerna_flush(group, 0, 0, LONG_MS));
    EXPECT(undriven, galerna_dispatch(group));
    EXPECT(undriven, galerna_fd(group, &fd));
    OK(galerna_stats(group, 0, &stats));
    CHECK(stats.messages_sent > 0);
    OK(galerna_rank(group, &size));
}

static void alone(const char *fabric, galerna_drive_t drive)
{
    galerna_group_t *group, *other;
    char *toml = make_config(fabric, 1, LONG_MS);
    char *other_toml = make_config(fabric, 1, LONG_MS);
    OK(join(toml, 1, &IGNORE, drive, &group));
    OK(join(other_toml, 1, &IGNORE, drive, &other));
    queries(group);
    sends(group);
    reservations(group, other);
    after_leave(group, drive);
    OK(galerna_group_free(group));
    OK(galerna_group_free(group));
    no_group(group);
    /* Its slot is used anew: the old handle is still none. */
    free(toml);
    toml = make_config(fabric, 1, LONG_MS);
    galerna_group_t *old = group;
    OK(join(toml, 1, &IGNORE, drive, &group));
    CHECK(group != old);
    OK(galerna_group_free(old));
    no_group(old);
    OK(galerna_send(group, 0, GALERNA_MODE_SAFE, "x", 1, LONG_MS));
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
