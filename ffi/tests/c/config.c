/* Makes a configuration key by key, and joins with it. Compares the header with the library. Usage: config */
#include "cluster.h"

#include <unistd.h>

static void deliver(void *context, const galerna_message_t *message)
{
    (void)message;
    ++*(int *)context;
}

static void versions_and_names(void)
{
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", GALERNA_VERSION_MAJOR, GALERNA_VERSION_MINOR, GALERNA_VERSION_PATCH);
    CHECK(strcmp(GALERNA_VERSION, galerna_version()) == 0);
    CHECK(strncmp(GALERNA_VERSION, text, strlen(text)) == 0);
    CHECK(strcmp(galerna_result_name(GALERNA_OK), "GALERNA_OK") == 0);
    CHECK(strcmp(galerna_result_name(GALERNA_ERR_ARGUMENT), "GALERNA_ERR_ARGUMENT") == 0);
    CHECK(strcmp(galerna_result_name(GALERNA_ERR_TWO_GROUPS), "GALERNA_ERR_TWO_GROUPS") == 0);
    const int32_t numbers[] = {INT32_MIN, -1, 11, 13, 37, INT32_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        CHECK(strcmp(galerna_result_name((galerna_result_t)numbers[i]), "unknown result") == 0);
    }
    CHECK(strcmp(galerna_mode_name(GALERNA_MODE_FIFO), "GALERNA_MODE_FIFO") == 0);
    CHECK(strcmp(galerna_mode_name(GALERNA_MODE_ORDERED), "GALERNA_MODE_ORDERED") == 0);
    CHECK(strcmp(galerna_mode_name(GALERNA_MODE_SAFE), "GALERNA_MODE_SAFE") == 0);
    CHECK(strcmp(galerna_mode_name(GALERNA_MODE_DURABLE), "GALERNA_MODE_DURABLE") == 0);
    CHECK(strcmp(galerna_mode_name((galerna_mode_t)-1), "unknown mode") == 0);
    CHECK(strcmp(galerna_mode_name((galerna_mode_t)4), "unknown mode") == 0);
}

static void invalid_arguments(void)
{
    galerna_config_t *config = (galerna_config_t *)&config;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_new("c-test", NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_new(NULL, &config));
    CHECK(config == NULL);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_new("\xff", &config));
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_new("", &config));
    expect_text("`group`");
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_set(NULL, "ring_bytes", "4096"));
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_add_member(NULL, 1, "unix:/x"));
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_add_contact(NULL, "unix:/x"));
    OK(galerna_config_new("c-test", &config));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_set(config, NULL, "4096"));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_set(config, "ring_bytes", NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_set(config, "ring_bytes", "\xff"));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_set(config, "\xff", "1"));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_add_member(config, 1, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_config_add_contact(config, "\xff"));
    galerna_config_free(config);
    EXPECT(GALERNA_ERR_HANDLE, galerna_config_set(config, "ring_bytes", "4096"));
}

/* Every error names the key, the value and what is allowed. */
static void invalid_values(galerna_config_t *config)
{
    const char *const values[][3] = {
        {"ring_byte", "4096", "`ring_bytes`"},
        {"log.dir", "logs", "`directory`"},
        {"ring_bytes", "1000", "power of two"},
        {"ring_bytes", "many", "a whole number"},
        {"lone_survivor", "perhaps", "`true` or `false`"},
        {"fabric", "udp", "`shm`"},
        {"log.segment_bytes", "4097", "multiple of 4096"},
        {"verbs.retry_count", "8", "0 to 7"},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        EXPECT(GALERNA_ERR_CONFIG, galerna_config_set(config, values[i][0], values[i][1]));
        for (size_t j = 0; j < 3; j++) {
            expect_text(values[i][j]);
        }
    }
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_add_contact(config, "unix:"));
    expect_text("contact `unix:`");
}

int main(void)
{
    char address[128], directory[128], command[160];
    int delivered = 0;
    size_t most = 0;
    galerna_config_t *config;
    galerna_group_t *group;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    CHECK(callbacks.size == sizeof callbacks && callbacks.deliver == NULL && callbacks.warned == NULL);
    callbacks.deliver = deliver;
    callbacks.context = &delivered;
    versions_and_names();
    invalid_arguments();

    const char *folder = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(address, sizeof address, "unix:%s/galerna-config-%ld.sock", folder, (long)getpid());
    snprintf(directory, sizeof directory, "%s/galerna-config-%ld", folder, (long)getpid());
    OK(galerna_config_new("c-test", &config));
    invalid_values(config);
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("`members`");
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_set_member(config, 7));
    OK(galerna_config_add_member(config, 7, address));
    EXPECT(GALERNA_ERR_CONFIG, galerna_config_add_member(config, 7, "unix:/other"));
    expect_text("id 7");
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("unix:PATH");
    OK(galerna_config_set(config, "fabric", "shm"));
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("`member`");
    OK(galerna_config_set_member(config, 7));
    OK(galerna_config_set(config, "partition_timeout_ms", "100"));
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("`partition_timeout_ms` is 100");
    OK(galerna_config_set(config, "partition_timeout_ms", "60000"));
    OK(galerna_config_set(config, "failure_timeout_ms", "60000"));
    OK(galerna_config_set(config, "ring_bytes", "16384"));
    OK(galerna_config_set(config, "max_message_bytes", "4000"));
    OK(galerna_config_set(config, "log.segment_bytes", "65536"));
    EXPECT(GALERNA_ERR_CONFIG, galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    expect_text("`log.directory`");
    OK(galerna_config_set(config, "log.directory", directory));
    OK(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
    galerna_config_free(config);
    OK(galerna_group_max_message(group, 0, &most));
    CHECK(most == 4000);
    OK(galerna_group_send(group, 0, GALERNA_MODE_DURABLE, "x", 1, LONG_MS, NULL));
    OK(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    CHECK(delivered == 1);
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    CHECK(system(command) == 0);
    return 0;
}
