/* The library is loaded at run time, used, and unloaded: it stays in memory, and a later fork is safe.
 * Usage: unloaded LIBRARY */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

static void *library;

/* Declares `name`, and looks it up. A `void *` cannot be cast to a function in C. */
#define LOOK_UP(name)                                                                              \
    __typeof__(&galerna_##name) name = NULL;                                                       \
    do {                                                                                           \
        void *found = dlsym(library, "galerna_" #name);                                            \
        CHECK(found != NULL);                                                                      \
        memcpy(&name, &found, sizeof name);                                                        \
    } while (0)

static void deliver(void *context, const galerna_message_t *message)
{
    (void)context;
    (void)message;
}

int main(int argc, char **argv)
{
    int status;
    pid_t child;
    galerna_group_t *group;
    galerna_config_t *config;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    const char *toml = "group = \"unloaded\"\nfabric = \"shm\"\nmember = 1\n[[members]]\nid = 1\naddress = \"unix:%s\"\n";
    char path[64], text[256];
    CHECK(argc == 2);
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    LOOK_UP(config_from_toml);
    LOOK_UP(config_free);
    LOOK_UP(last_error);
    LOOK_UP(group_join);
    LOOK_UP(group_leave);
    LOOK_UP(group_free);
    snprintf(path, sizeof path, "/tmp/galerna-unloaded-%d.sock", (int)getpid());
    snprintf(text, sizeof text, toml, path);
    callbacks.deliver = deliver;
    if (config_from_toml(text, &config) != GALERNA_OK) {
        fprintf(stderr, "%s\n", last_error());
        return 1;
    }
    CHECK(group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group) == GALERNA_OK);
    CHECK(group_leave(group, 60000) == GALERNA_OK);
    CHECK(group_free(group) == GALERNA_OK);
    config_free(config);
    CHECK(dlclose(library) == 0);
    CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}
