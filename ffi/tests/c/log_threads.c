/* Threads append to one log and read it at the same time, also while it is closed. Usage: log_threads */
#include "log_files.h"

#include <stdatomic.h>

#define WRITERS 4
#define RECORDS 300
#define ROUNDS 10

typedef struct {
    uint32_t writer;
    uint32_t number;
} payload_t;

typedef struct {
    galerna_log_t *log;
    uint32_t writer;
    galerna_version_t versions[RECORDS];
} writer_t;

static _Atomic(galerna_log_t *) current;
static atomic_bool done;
static atomic_uint used;

static void *append_all(void *context)
{
    writer_t *writer = context;
    for (uint32_t i = 0; i < RECORDS; i++) {
        payload_t payload = {writer->writer, i};
        OK(galerna_log_append(writer->log, &payload, sizeof payload, LONG_MS, &writer->versions[i]));
        CHECK(i == 0 || writer->versions[i].sequence > writer->versions[i - 1].sequence);
        if (i % 100 == 99) {
            OK(galerna_log_wait_durable(writer->log, writer->versions[i], LONG_MS));
        }
    }
    return NULL;
}

/* Reads the payload of the next record. Returns false at the end. */
static bool next(galerna_log_iter_t *iter, payload_t *payload, galerna_log_record_t *record)
{
    galerna_log_entry_t *entry;
    OK(galerna_log_iter_next(iter, &entry));
    if (entry == NULL) {
        return false;
    }
    OK(galerna_log_entry_record(entry, record));
    CHECK(record->length == sizeof *payload);
    memcpy(payload, record->payload, sizeof *payload);
    galerna_log_entry_free(entry);
    return true;
}

/* Reads all records while they are appended. The records of each writer must be in its order, and versions and times
 * must grow. */
static void *read_along(void *context)
{
    galerna_log_record_t record = {.size = sizeof record}, last = {.size = 0};
    galerna_log_iter_t *iter;
    uint32_t expected[WRITERS] = {0};
    payload_t payload;
    OK(galerna_log_iterate(context, NULL, &iter));
    for (int count = 0; count < WRITERS * RECORDS;) {
        if (next(iter, &payload, &record)) {
            CHECK(payload.writer < WRITERS && payload.number == expected[payload.writer]++);
            CHECK(record.version.sequence == last.version.sequence + 1 && record.time_ns > last.time_ns);
            last = record;
            count++;
        } else {
            OK(galerna_log_sync(context, LONG_MS));
        }
    }
    CHECK(!next(iter, &payload, &record));
    galerna_log_iter_free(iter);
    return NULL;
}

static void all_at_once(void)
{
    static writer_t writers[WRITERS];
    pthread_t threads[WRITERS + 1];
    galerna_log_options_t options = {.size = sizeof options, .segment_bytes = 16384, .backlog_max_bytes = 4096};
    galerna_log_t *log;
    char *path = new_log();
    OK(galerna_log_open(path, &options, &log));
    for (uint32_t i = 0; i < WRITERS; i++) {
        writers[i].log = log;
        writers[i].writer = i;
        CHECK(pthread_create(&threads[i], NULL, append_all, &writers[i]) == 0);
    }
    CHECK(pthread_create(&threads[WRITERS], NULL, read_along, log) == 0);
    for (int i = 0; i <= WRITERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        payload_t payload = {i, RECORDS / 2};
        galerna_log_record_t record = {.size = sizeof record};
        galerna_log_entry_t *entry;
        OK(galerna_log_get(log, writers[i].versions[RECORDS / 2], &entry));
        OK(galerna_log_entry_record(entry, &record));
        CHECK(record.length == sizeof payload && memcmp(record.payload, &payload, sizeof payload) == 0);
        galerna_log_entry_free(entry);
    }
    OK(galerna_log_close(log));
    remove_log(path);
}

static bool expected(galerna_result_t result)
{
    return result == GALERNA_OK || result == GALERNA_ERR_HANDLE;
}

/* Uses the log that is open at the moment. */
static void *use(void *context)
{
    (void)context;
    while (!atomic_load(&done)) {
        galerna_log_t *log = atomic_load(&current);
        galerna_log_iter_t *iter;
        galerna_log_entry_t *entry;
        galerna_version_t version;
        galerna_result_t result = galerna_log_append(log, "x", 1, LONG_MS, &version);
        CHECK(expected(result));
        CHECK(expected(galerna_log_sync(log, LONG_MS)));
        atomic_fetch_add(&used, result == GALERNA_OK);
        CHECK(expected(galerna_log_get(log, (galerna_version_t){0, 1}, &entry)));
        galerna_log_entry_free(entry);
        CHECK(expected(galerna_log_iterate(log, NULL, &iter)));
        CHECK(expected(galerna_log_iter_next(iter, &entry)));
        galerna_log_entry_free(entry);
        galerna_log_iter_free(iter);
    }
    return NULL;
}

/* A log is closed while threads append. No successfully appended record may be missing. */
static void closing(void)
{
    pthread_t threads[WRITERS];
    char *paths[ROUNDS];
    unsigned before = 0;
    uint64_t kept = 0;
    for (int i = 0; i < WRITERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, use, NULL) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        galerna_log_t *log;
        paths[i] = new_log();
        galerna_log_options_t options = {.size = sizeof options, .segment_bytes = 16384};
        OK(galerna_log_open(paths[i], &options, &log));
        atomic_store(&current, log);
        while (atomic_load(&used) < before + 20) {
            galerna_log_sync(log, LONG_MS);
        }
        OK(galerna_log_close(log));
        before = atomic_load(&used);
    }
    atomic_store(&done, true);
    for (int i = 0; i < WRITERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        galerna_log_t *log;
        galerna_version_t end;
        OK(galerna_log_open(paths[i], NULL, &log));
        OK(galerna_log_end(log, &end, NULL));
        kept += end.sequence;
        OK(galerna_log_close(log));
        remove_log(paths[i]);
    }
    CHECK(kept == atomic_load(&used));
}

int main(void)
{
    all_at_once();
    closing();
    return 0;
}
