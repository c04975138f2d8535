/* Two threads are two members, with various drives. Tests the common order, backpressure, reservations,
 * flush, stats, and the calls inside callbacks. Usage: exchange tcp|shm */
#include "cluster.h"

#include <stdatomic.h>

#define MESSAGES 150u
/* The messages of both members, including one that each of them sends from a callback. */
#define ALL (2 * (MESSAGES + 1))

typedef struct {
    member_t member;
    const char *toml;
    uint32_t id;
    galerna_drive_t drive;
    bool answered;
    atomic_uint *finished;
} peer_t;

/* Callbacks may send, but must not wait. */
static void deliver(void *context, const galerna_message_t *message)
{
    peer_t *peer = context;
    galerna_group_t *none, *group = peer->member.group;
    galerna_config_t *config;
    member_deliver(&peer->member, message);
    if (peer->answered) {
        return;
    }
    galerna_result_t sent = galerna_group_send(group, 0, GALERNA_MODE_SAFE, "from a callback", 15, LONG_MS, NULL);
    CHECK(sent == GALERNA_OK || sent == GALERNA_ERR_WOULD_BLOCK);
    peer->answered = sent == GALERNA_OK;
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_dispatch(group));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_flush(group, 0, GALERNA_COPIES_ALL, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_leave(group, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_free(group));
    expect_text("callback");
    OK(galerna_config_from_toml(peer->toml, &config));
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .context = peer};
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_join(config, &callbacks, peer->drive, &none));
    galerna_config_free(config);
}

static void stopped(void *context, galerna_result_t code, const char *text)
{
    (void)context;
    fprintf(stderr, "stopped: %s: %s\n", galerna_strerror(code), text);
    /* The other member may leave first, but that must not stop this one. */
    CHECK(false);
}

static bool all_delivered(void *context)
{
    peer_t *peer = context;
    return member_delivered(&peer->member) == ALL;
}

static bool all_finished(void *context)
{
    peer_t *peer = context;
    return atomic_load(peer->finished) == 2;
}

/* The counters may lag behind. */
static bool all_counted(void *context)
{
    peer_t *peer = context;
    galerna_group_stats_t stats = {.size = sizeof stats};
    OK(galerna_group_stats(peer->member.group, 0, &stats));
    return stats.messages_sent == MESSAGES + 1 && stats.messages_delivered == ALL;
}

/* Sends more than the ring holds. So the calls have to wait, and to dispatch if the application drives the group. */
static void send_all(peer_t *peer)
{
    unsigned char bytes[600];
    for (unsigned i = 0; i < MESSAGES; i++) {
        size_t length = 100 + i * 37 % 500;
        galerna_mode_t mode = i % 2 == 0 ? GALERNA_MODE_SAFE : GALERNA_MODE_ORDERED;
        memset(bytes, (int)(i + peer->id), sizeof bytes);
        if (i % 3 == 0) {
            OK(galerna_group_send(peer->member.group, 0, mode, bytes, length, LONG_MS, NULL));
            continue;
        }
        galerna_reservation_t reservation = {.size = sizeof reservation};
        OK(galerna_group_reserve(peer->member.group, 0, length, LONG_MS, &reservation));
        memcpy(reservation.data, bytes, length);
        if (i % 10 == 1) {
            OK(galerna_group_abandon(peer->member.group, &reservation));
            OK(galerna_group_reserve(peer->member.group, 0, length, LONG_MS, &reservation));
            memcpy(reservation.data, bytes, length);
        }
        OK(galerna_group_commit(peer->member.group, &reservation, mode, NULL));
    }
}

static void *run(void *context)
{
    peer_t *peer = context;
    galerna_group_stats_t stats = {.size = sizeof stats};
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .stopped = stopped, .context = peer};
    CHECK(pthread_mutex_init(&peer->member.lock, NULL) == 0);
    peer->member.drive = peer->drive;
    OK(join(peer->toml, peer->id, &callbacks, peer->drive, &peer->member.group));
    send_all(peer);
    member_wait(&peer->member, all_delivered, peer);
    OK(galerna_group_flush(peer->member.group, 0, GALERNA_COPIES_ALL, LONG_MS));
    OK(galerna_group_flush(peer->member.group, 0, 1, LONG_MS));
    member_wait(&peer->member, all_counted, peer);
    OK(galerna_group_stats(peer->member.group, 0, &stats));
    CHECK(stats.bytes_delivered > stats.bytes_sent && stats.passes > 0 && stats.fabric_writes_posted > 0);
    atomic_fetch_add(peer->finished, 1);
    member_wait(&peer->member, all_finished, peer);
    member_leave(&peer->member);
    return NULL;
}

static void exchange(const char *fabric, galerna_drive_t one, galerna_drive_t two)
{
    char *toml = make_config(fabric, 2, LONG_MS);
    atomic_uint finished = 0;
    peer_t peers[2] = {{.toml = toml, .id = 1, .drive = one, .finished = &finished},
                       {.toml = toml, .id = 2, .drive = two, .finished = &finished}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, run, &peers[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(peers[0].member.digest == peers[1].member.digest);
    free(toml);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    exchange(argv[1], GALERNA_DRIVE_THREAD, GALERNA_DRIVE_THREAD);
    exchange(argv[1], GALERNA_DRIVE_DISPATCH, GALERNA_DRIVE_DISPATCH);
    exchange(argv[1], GALERNA_DRIVE_THREAD, GALERNA_DRIVE_DISPATCH);
    return 0;
}
