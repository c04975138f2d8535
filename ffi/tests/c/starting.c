/* Joins and leaves that do not block: in a thread of the library and in the application's loop, and cancellations.
 * Usage: starting tcp|shm */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MEMBERS = 2 };

/* One member's process, as far as its application is concerned. */
typedef struct {
    pthread_mutex_t lock;
    pthread_t in_thread;
    int joined;
    int views;
    int messages;
    galerna_result_t result;
    int left;
    galerna_result_t left_result;
    /* The result of the leave that `joined` begins. */
    galerna_result_t second;
    char text[512];
    galerna_group_t *group;
} app_t;

/* Whether `joined` begins to leave. */
static int leaves_in_joined;

static void deliver(void *context, const galerna_message_t *message)
{
    app_t *app = context;
    (void)message;
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    app->messages++;
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
}

static void view(void *context, const galerna_view_t *view)
{
    app_t *app = context;
    (void)view;
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    app->views++;
    app->in_thread = pthread_self();
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
}

static void a_moment(void)
{
    struct timespec pause = {.tv_nsec = 2000000};
    nanosleep(&pause, NULL);
}

static void joined(void *context, galerna_result_t result)
{
    app_t *app = context;
    if (result != GALERNA_OK) {
        /* A leave that waits for the end of the join waits for this callback, too. */
        for (int i = 0; i < 10; i++) {
            a_moment();
        }
    }
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    CHECK(app->joined == 0);
    app->joined = 1;
    app->result = result;
    if (result != GALERNA_OK) {
        snprintf(app->text, sizeof app->text, "%s", galerna_last_error());
    }
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
    if (result == GALERNA_OK) {
        /* The handle works inside the callback. */
        uint32_t member = 0;
        OK(galerna_group_member(app->group, &member));
        CHECK(member > 0);
        EXPECT(GALERNA_ERR_MISUSE, galerna_group_free(app->group));
        if (leaves_in_joined) {
            app->second = galerna_group_leave_start(app->group, LONG_MS);
        }
    }
}

static void left(void *context, galerna_result_t result)
{
    app_t *app = context;
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_free(app->group));
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    app->left++;
    app->left_result = result;
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
}

static int has_left(app_t *app)
{
    int has;
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    has = app->left;
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
    return has;
}

static int is_joined(app_t *app)
{
    int is;
    CHECK(pthread_mutex_lock(&app->lock) == 0);
    is = app->joined;
    CHECK(pthread_mutex_unlock(&app->lock) == 0);
    return is;
}

static void start(const char *toml, uint32_t id, galerna_drive_t drive, app_t *app)
{
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    galerna_config_t *config;
    memset(app, 0, sizeof *app);
    CHECK(pthread_mutex_init(&app->lock, NULL) == 0);
    callbacks.context = app;
    callbacks.deliver = deliver;
    callbacks.view = view;
    callbacks.joined = joined;
    callbacks.left = left;
    OK(galerna_config_from_toml(toml, &config));
    OK(galerna_config_set_member(config, id));
    OK(galerna_group_join_start(config, &callbacks, drive, &app->group));
    CHECK(app->group != NULL);
    galerna_config_free(config);
}

/* Waits for the descriptor, and dispatches. */
static galerna_result_t turn(app_t *app)
{
    struct pollfd fds = {.events = POLLIN};
    galerna_result_t result = galerna_group_fd(app->group, &fds.fd);
    if (result != GALERNA_OK) {
        return result;
    }
    CHECK(poll(&fds, 1, 5) >= 0);
    return galerna_group_dispatch(app->group);
}

static void together(const char *toml, galerna_drive_t drive)
{
    app_t apps[MEMBERS];
    int fds[MEMBERS] = {0, 0};
    uint64_t ticket;
    start(toml, 1, drive, &apps[0]);
    /* Alone it waits, and says so. */
    a_moment();
    EXPECT(GALERNA_ERR_JOINING, galerna_group_send(apps[0].group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    EXPECT(GALERNA_ERR_JOINING, galerna_group_flush(apps[0].group, 0, GALERNA_COPIES_ALL, LONG_MS));
    start(toml, 2, drive, &apps[1]);
    for (int i = 0; i < MEMBERS && drive == GALERNA_DRIVE_DISPATCH; i++) {
        OK(galerna_group_fd(apps[i].group, &fds[i]));
    }
    while (!is_joined(&apps[0]) || !is_joined(&apps[1])) {
        for (int i = 0; i < MEMBERS; i++) {
            if (drive == GALERNA_DRIVE_DISPATCH) {
                OK(turn(&apps[i]));
            }
        }
        a_moment();
    }
    CHECK(apps[0].result == GALERNA_OK && apps[1].result == GALERNA_OK);
    CHECK(apps[0].views > 0 && apps[1].views > 0);
    if (drive == GALERNA_DRIVE_DISPATCH) {
        int fd;
        CHECK(pthread_equal(apps[0].in_thread, pthread_self()));
        OK(galerna_group_fd(apps[0].group, &fd));
        CHECK(fd == fds[0]);
    }
    OK(galerna_group_send(apps[0].group, 0, GALERNA_MODE_SAFE, "hello", 5, LONG_MS, &ticket));
    for (int done = 0; !done; a_moment()) {
        done = 1;
        for (int i = 0; i < MEMBERS; i++) {
            if (drive == GALERNA_DRIVE_DISPATCH) {
                OK(turn(&apps[i]));
            }
            CHECK(pthread_mutex_lock(&apps[i].lock) == 0);
            done &= apps[i].messages == 1;
            CHECK(pthread_mutex_unlock(&apps[i].lock) == 0);
        }
    }
    OK(galerna_group_wait(apps[0].group, 0, ticket, GALERNA_UNTIL_DELIVERED, LONG_MS));
    /* The second leaves without waiting, in one thread with the first; then the first, alone. */
    for (int leaver = 1; leaver >= 0; leaver--) {
        galerna_result_t result = GALERNA_OK;
        OK(galerna_group_leave_start(apps[leaver].group, LONG_MS));
        EXPECT(GALERNA_ERR_LEFT, galerna_group_leave_start(apps[leaver].group, LONG_MS));
        EXPECT(GALERNA_ERR_LEFT, galerna_group_send(apps[leaver].group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
        for (; !has_left(&apps[leaver]); a_moment()) {
            for (int i = 0; i <= leaver && drive == GALERNA_DRIVE_DISPATCH; i++) {
                result = turn(&apps[i]);
                CHECK(result == GALERNA_OK || (i == leaver && result == GALERNA_ERR_LEFT));
            }
        }
        CHECK(apps[leaver].left == 1 && apps[leaver].left_result == GALERNA_OK);
        if (drive == GALERNA_DRIVE_DISPATCH) {
            CHECK(result == GALERNA_ERR_LEFT);
            EXPECT(GALERNA_ERR_LEFT, galerna_group_dispatch(apps[leaver].group));
        }
    }
    OK(galerna_group_free(apps[1].group));
    OK(galerna_group_free(apps[0].group));
    CHECK(apps[0].left == 1 && apps[1].left == 1);
}

static void cancelled(const char *toml, galerna_drive_t drive)
{
    app_t app;
    start(toml, 1, drive, &app);
    a_moment();
    OK(galerna_group_leave(app.group, LONG_MS));
    CHECK(is_joined(&app) && app.result == GALERNA_ERR_LEFT);
    CHECK(strlen(app.text) > 0);
    EXPECT(GALERNA_ERR_LEFT, galerna_group_send(app.group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    OK(galerna_group_free(app.group));
    /* The same without waiting: `joined` tells the end. */
    start(toml, 1, drive, &app);
    OK(galerna_group_leave_start(app.group, LONG_MS));
    EXPECT(GALERNA_ERR_LEFT, galerna_group_leave_start(app.group, LONG_MS));
    while (!is_joined(&app)) {
        if (drive == GALERNA_DRIVE_DISPATCH) {
            galerna_result_t result = turn(&app);
            CHECK(result == GALERNA_OK || result == GALERNA_ERR_LEFT);
        }
        a_moment();
    }
    CHECK(app.result == GALERNA_ERR_LEFT && app.left == 0);
    EXPECT(GALERNA_ERR_LEFT, galerna_group_leave_start(app.group, LONG_MS));
    OK(galerna_group_free(app.group));
    /* Freed at once, and after a moment: `joined` tells the end here, too. */
    start(toml, 1, drive, &app);
    OK(galerna_group_free(app.group));
    CHECK(app.joined == 1 && app.result == GALERNA_ERR_LEFT && app.left == 0);
    EXPECT(GALERNA_ERR_HANDLE, galerna_group_dispatch(app.group));
    start(toml, 1, drive, &app);
    a_moment();
    OK(galerna_group_leave_start(app.group, LONG_MS));
    OK(galerna_group_free(app.group));
    CHECK(app.joined == 1 && app.result == GALERNA_ERR_LEFT && app.left == 0);
}

/* A group of one joins quickly: a leave that begins at any moment of the join ends once, and a second one is refused. */
static void leaves_at_every_moment(const char *fabric, galerna_drive_t drive)
{
    char *toml = make_config(fabric, 1, LONG_MS);
    leaves_in_joined = 1;
    for (int round = 0; round < 40; round++) {
        app_t app;
        start(toml, 1, drive, &app);
        for (int i = 0; i < round / 4 && drive == GALERNA_DRIVE_DISPATCH; i++) {
            a_moment();
            galerna_group_dispatch(app.group);
        }
        for (int i = 0; i < round && drive == GALERNA_DRIVE_THREAD; i++) {
            struct timespec pause = {.tv_nsec = 300000};
            nanosleep(&pause, NULL);
        }
        galerna_result_t first = galerna_group_leave_start(app.group, LONG_MS);
        CHECK(first == GALERNA_OK || first == GALERNA_ERR_LEFT);
        while (!is_joined(&app) || (app.result == GALERNA_OK && !has_left(&app))) {
            if (drive == GALERNA_DRIVE_DISPATCH) {
                turn(&app);
            }
            a_moment();
        }
        if (app.result == GALERNA_OK) {
            /* One of the two calls began the leave. */
            CHECK((first == GALERNA_OK) == (app.second == GALERNA_ERR_LEFT));
        }
        OK(galerna_group_free(app.group));
        CHECK(app.joined == 1 && app.left == (app.result == GALERNA_OK));
    }
    leaves_in_joined = 0;
    free(toml);
}

/* The founder that is missing is named when the join's time is over. */
static void alone(const char *fabric, galerna_drive_t drive)
{
    char *toml = make_config(fabric, MEMBERS, 500);
    app_t app;
    start(toml, 1, drive, &app);
    while (!is_joined(&app)) {
        if (drive == GALERNA_DRIVE_DISPATCH) {
            galerna_result_t result = turn(&app);
            CHECK(result == GALERNA_OK || result == GALERNA_ERR_MEMBERS_MISSING);
        }
        a_moment();
    }
    CHECK(app.result == GALERNA_ERR_MEMBERS_MISSING);
    CHECK(strstr(app.text, "member 2") != NULL);
    EXPECT(GALERNA_ERR_MEMBERS_MISSING, galerna_group_send(app.group, 0, GALERNA_MODE_SAFE, "x", 1, 0, NULL));
    OK(galerna_group_leave(app.group, LONG_MS));
    OK(galerna_group_free(app.group));
    free(toml);
}

int main(int argc, char **argv)
{
    const char *fabric = argc > 1 ? argv[1] : "tcp";
    galerna_drive_t drives[] = {GALERNA_DRIVE_THREAD, GALERNA_DRIVE_DISPATCH};
    char *toml = make_config(fabric, MEMBERS, LONG_MS);
    for (int i = 0; i < 2; i++) {
        cancelled(toml, drives[i]);
        together(toml, drives[i]);
        alone(fabric, drives[i]);
        leaves_at_every_moment(fabric, drives[i]);
    }
    free(toml);
    return 0;
}
