/* Groups with a log. Two threads are two members, with various drives. They end without a leave and are
 * started again with their durable messages. Usage: durable tcp|shm */
#define _POSIX_C_SOURCE 200809L
#include "cluster.h"
#include "log_files.h"

#include <stdatomic.h>
#include <unistd.h>

#define PEERS 2u
/* Messages that each member sends per run, before and after the checkpoint. */
#define BEFORE 30u
#define AFTER 20u
#define LIVES 3u

/* A summary of all messages delivered in all runs. */
typedef struct {
    uint64_t count;
    uint64_t digest;
} state_t;

typedef struct {
    member_t member;
    state_t state;
    /* Number of messages that were restored from a checkpoint, and number that was known when the join returned. */
    uint64_t restored, joined_with;
    uint64_t durable, last_sequence;
    unsigned life, arrivals;
    bool asked;
    uint32_t id;
    const char *toml;
    atomic_uint *arrived;
} peer_t;

static state_t state_of(peer_t *peer)
{
    pthread_mutex_lock(&peer->member.lock);
    state_t state = peer->state;
    pthread_mutex_unlock(&peer->member.lock);
    return state;
}

/* None of these calls may wait inside a callback. */
static void refuse_to_wait(galerna_group_t *group)
{
    galerna_version_t version = {0, 0};
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait_durable(group, 0, 0, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_wait_closed(group, 0, 0, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_persist(group, 0, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_checkpoint(group, 0, LONG_MS, &version));
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_trim_log(group, 0, version));
    expect_text("callback");
}

static void deliver(void *context, const galerna_message_t *message)
{
    peer_t *peer = context;
    const unsigned char *bytes = message->payload;
    CHECK(message->mode == GALERNA_MODE_DURABLE && message->length > 0);
    pthread_mutex_lock(&peer->member.lock);
    /* Messages from the log come before the first view. The handle may not be available then. */
    bool ask = peer->member.views > 0 && !peer->asked;
    peer->asked |= ask;
    peer->state.count++;
    peer->state.digest = peer->state.digest * 1099511628211u + message->sender;
    for (size_t i = 0; i < message->length; i++) {
        peer->state.digest = peer->state.digest * 1099511628211u + bytes[i];
    }
    CHECK(peer->last_sequence == 0 || message->sequence > peer->last_sequence);
    peer->last_sequence = message->sequence;
    pthread_mutex_unlock(&peer->member.lock);
    if (ask) {
        refuse_to_wait(peer->member.group);
    }
}

static void view(void *context, const galerna_view_t *view)
{
    peer_t *peer = context;
    uint32_t id;
    pthread_mutex_lock(&peer->member.lock);
    peer->member.views++;
    pthread_mutex_unlock(&peer->member.lock);
    OK(galerna_group_member(peer->member.group, &id));
    CHECK(view->members[view->rank] == id);
}

static void durable(void *context, uint64_t below)
{
    peer_t *peer = context;
    pthread_mutex_lock(&peer->member.lock);
    CHECK(below > peer->durable);
    peer->durable = below;
    pthread_mutex_unlock(&peer->member.lock);
}

static ptrdiff_t read_state(void *context, void *buffer, size_t length)
{
    state_t *copy = context;
    if (copy->count == UINT64_MAX) {
        return 0;
    }
    CHECK(length >= sizeof *copy);
    memcpy(buffer, copy, sizeof *copy);
    copy->count = UINT64_MAX;
    return sizeof *copy;
}

static int snapshot(void *context, galerna_snapshot_t *out)
{
    state_t *copy = malloc(sizeof *copy);
    CHECK(copy != NULL);
    *copy = state_of(context);
    out->context = copy;
    out->read = read_state;
    out->free = free;
    return 0;
}

static int restore(void *context, galerna_reader_t *reader)
{
    peer_t *peer = context;
    state_t state;
    size_t got;
    OK(galerna_reader_read(reader, &state, sizeof state, &got));
    CHECK(got == sizeof state);
    pthread_mutex_lock(&peer->member.lock);
    peer->state = state;
    peer->restored = state.count;
    pthread_mutex_unlock(&peer->member.lock);
    return 0;
}

static bool all_arrived(void *context)
{
    peer_t *peer = context;
    return atomic_load(peer->arrived) >= PEERS * peer->arrivals;
}

/* Waits until the other member has reached the same point. */
static void arrive(peer_t *peer)
{
    peer->arrivals++;
    atomic_fetch_add(peer->arrived, 1);
    member_wait(&peer->member, all_arrived, peer);
}

static void send_some(peer_t *peer, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char text[600] = "";
        int length = snprintf(text, sizeof text, "%u.%u.%u", peer->life, (unsigned)peer->id, i);
        size_t bytes = (size_t)length + i * 7 % 400;
        if (i % 3 > 0) {
            OK(galerna_group_send(peer->member.group, 0, GALERNA_MODE_DURABLE, text, bytes, LONG_MS, NULL));
            continue;
        }
        galerna_reservation_t reservation = {.size = sizeof reservation};
        OK(galerna_group_reserve(peer->member.group, 0, bytes, LONG_MS, &reservation));
        CHECK(reservation.length == bytes);
        if (i % 2 == 0) {
            OK(galerna_group_abandon(peer->member.group, &reservation));
            OK(galerna_group_reserve(peer->member.group, 0, bytes, LONG_MS, &reservation));
        }
        memcpy(reservation.data, text, bytes);
        OK(galerna_group_commit(peer->member.group, &reservation, GALERNA_MODE_DURABLE, NULL));
    }
    OK(galerna_group_persist(peer->member.group, 0, GALERNA_WAIT_FOREVER));
    arrive(peer);
}

static bool told_durable(void *context)
{
    peer_t *peer = context;
    pthread_mutex_lock(&peer->member.lock);
    bool told = peer->durable > peer->last_sequence;
    pthread_mutex_unlock(&peer->member.lock);
    return told;
}

static void frontiers(peer_t *peer)
{
    galerna_group_t *group = peer->member.group;
    galerna_group_frontiers_t frontiers = {.size = sizeof frontiers};
    OK(galerna_group_wait_durable(group, 0, peer->last_sequence, LONG_MS));
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_group_wait_durable(group, 0, UINT64_MAX - 1, 30));
    OK(galerna_group_frontiers(group, 0, &frontiers));
    CHECK(frontiers.durable > peer->last_sequence && frontiers.stable >= frontiers.durable);
    CHECK(frontiers.persisted >= frontiers.persisted_all && frontiers.persisted_all >= frontiers.durable);
    CHECK(frontiers.closed_ns > 0 && frontiers.view + 1 >= peer->life);
    member_wait(&peer->member, told_durable, peer);
}

/* Reads the group's log, which behaves like a log that is open for reading only. */
static void group_log(peer_t *peer)
{
    galerna_log_t *log;
    galerna_log_iter_t *iter;
    galerna_log_entry_t *entry;
    galerna_log_checkpoint_t *none;
    galerna_log_record_t record = {.size = sizeof record};
    galerna_version_t end;
    uint64_t messages = 0, time_ns = 0;
    OK(galerna_group_log(peer->member.group, 0, &log));
    OK(galerna_log_end(log, &end, NULL));
    OK(galerna_log_iterate(log, NULL, &iter));
    for (OK(galerna_log_iter_next(iter, &entry)); entry != NULL; OK(galerna_log_iter_next(iter, &entry))) {
        OK(galerna_log_entry_record(entry, &record));
        CHECK(record.time_ns > time_ns);
        time_ns = record.time_ns;
        messages += record.kind == GALERNA_LOG_KIND_MESSAGE;
        galerna_log_entry_free(entry);
    }
    galerna_log_iter_free(iter);
    CHECK(messages == state_of(peer).count);
    OK(galerna_group_wait_closed(peer->member.group, 0, time_ns, GALERNA_WAIT_FOREVER));
    OK(galerna_log_at_time(log, time_ns, &entry));
    OK(galerna_log_entry_record(entry, &record));
    CHECK(record.version.view == end.view && record.version.sequence == end.sequence);
    galerna_log_entry_free(entry);
    OK(galerna_log_get(log, end, &entry));
    CHECK(entry != NULL);
    galerna_log_entry_free(entry);
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_append(log, "x", 1, LONG_MS, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_sync(log, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_trim(log, end, LONG_MS));
    expect_text("group");
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_checkpoint_load(log, &none));
    CHECK(none == NULL);
    OK(galerna_log_free(log));
    OK(galerna_log_free(log));
}

static void checkpoint(peer_t *peer)
{
    galerna_group_t *group = peer->member.group;
    galerna_version_t version = {0, 0};
    pthread_mutex_lock(&peer->member.lock);
    uint64_t last_sequence = peer->last_sequence;
    pthread_mutex_unlock(&peer->member.lock);
    OK(galerna_group_checkpoint(group, 0, LONG_MS, &version));
    CHECK(version.sequence >= last_sequence);
    OK(galerna_group_trim_log(group, 0, version));
    version.view++;
    EXPECT(GALERNA_ERR_MISUSE, galerna_group_trim_log(group, 0, version));
    expect_text("checkpoint");
    OK(galerna_group_checkpoint(group, 0, GALERNA_WAIT_FOREVER, NULL));
    arrive(peer);
}

static bool all_delivered(void *context)
{
    peer_t *peer = context;
    return state_of(peer).count == peer->joined_with + PEERS * (BEFORE + AFTER);
}

static void *live(void *context)
{
    peer_t *peer = context;
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = deliver, .stopped = member_stopped,
                                     .context = peer, .view = view, .snapshot = snapshot, .restore = restore,
                                     .durable = durable};
    OK(join(peer->toml, peer->id, &callbacks, peer->member.drive, &peer->member.group));
    peer->joined_with = state_of(peer).count;
    CHECK(peer->joined_with == peer->life * PEERS * (BEFORE + AFTER));
    arrive(peer);
    send_some(peer, BEFORE);
    checkpoint(peer);
    send_some(peer, AFTER);
    member_wait(&peer->member, all_delivered, peer);
    frontiers(peer);
    group_log(peer);
    arrive(peer);
    /* Without a leave, the group sees a process that dies. */
    OK(galerna_group_free(peer->member.group));
    return NULL;
}

/* One run of both members. They must end with the same state, which is returned. */
static state_t one_life(const char *toml, unsigned life, galerna_drive_t one, galerna_drive_t two)
{
    atomic_uint arrived = 0;
    static peer_t peers[PEERS];
    pthread_t threads[PEERS];
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i] = (peer_t){.life = life, .id = i + 1, .toml = toml, .arrived = &arrived};
        peers[i].member.drive = i == 0 ? one : two;
        CHECK(pthread_mutex_init(&peers[i].member.lock, NULL) == 0);
        CHECK(pthread_create(&threads[i], NULL, live, &peers[i]) == 0);
    }
    for (unsigned i = 0; i < PEERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        pthread_mutex_destroy(&peers[i].member.lock);
        CHECK(life == 0 || peers[i].restored > 0);
    }
    CHECK(peers[0].state.digest == peers[1].state.digest);
    return peers[0].state;
}

int main(int argc, char **argv)
{
    const galerna_drive_t drives[LIVES][PEERS] = {{GALERNA_DRIVE_THREAD, GALERNA_DRIVE_THREAD},
                                                  {GALERNA_DRIVE_DISPATCH, GALERNA_DRIVE_THREAD},
                                                  {GALERNA_DRIVE_DISPATCH, GALERNA_DRIVE_DISPATCH}};
    char *logs = new_log(), keys[1024];
    CHECK(argc == 2);
    CHECK(snprintf(keys, sizeof keys,
                   "failure_timeout_ms = 60000\npartition_timeout_ms = 60000\n[log]\ndirectory = \"%s\"\n"
                   "segment_bytes = 262144\nrestart_wait_ms = 50000\n",
                   logs) < (int)sizeof keys);
    char *toml = make_config_with(argv[1], PEERS, LONG_MS, keys);
    for (unsigned life = 0; life < LIVES; life++) {
        one_life(toml, life, drives[life][0], drives[life][1]);
    }
    for (unsigned i = 1; i <= PEERS; i++) {
        char *log = malloc(1024);
        CHECK(log != NULL && snprintf(log, 1024, "%s/c-test-%u", logs, i) < 1024);
        remove_log(log);
    }
    CHECK(rmdir(logs) == 0);
    free(logs);
    free(toml);
    return 0;
}
