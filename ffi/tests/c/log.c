/* Tests of the log: appended records are found again, also after a restart, and errors are reported. Usage: log */
#include "log_files.h"

#define FIRST "0000000000000000.segment"

static const galerna_log_options_t SMALL = {.size = sizeof SMALL, .segment_bytes = 8192};
static const galerna_version_t NOWHERE = {0, UINT64_MAX};

static galerna_log_t *open_log(const char *path)
{
    galerna_log_t *log;
    OK(galerna_log_open(path, &SMALL, &log));
    CHECK(log != NULL);
    return log;
}

static bool same(galerna_version_t a, galerna_version_t b)
{
    return a.view == b.view && a.sequence == b.sequence;
}

/* Appends a text. */
static galerna_version_t append(galerna_log_t *log, const char *text)
{
    galerna_version_t version = {9, 9};
    OK(galerna_log_append(log, text, strlen(text), LONG_MS, &version));
    CHECK(version.view == 0 && version.sequence > 0);
    return version;
}

/* Appends durable records of a kilobyte each, with the texts `record 0`, `record 1`, ... */
static void append_many(galerna_log_t *log, int count, galerna_version_t *versions)
{
    for (int i = 0; i < count; i++) {
        char bytes[1000] = {0};
        snprintf(bytes, sizeof bytes, "record %d.", i);
        OK(galerna_log_append(log, bytes, sizeof bytes, LONG_MS, &versions[i]));
    }
    OK(galerna_log_sync(log, LONG_MS));
}

/* Returns the contents of an entry and frees it. The payload must begin with the text. */
static galerna_log_record_t holds(galerna_log_entry_t *entry, const char *text)
{
    galerna_log_record_t record = {.size = sizeof record};
    CHECK(entry != NULL);
    OK(galerna_log_entry_record(entry, &record));
    CHECK(record.payload != NULL && record.length >= strlen(text));
    CHECK(memcmp(record.payload, text, strlen(text)) == 0);
    CHECK(record.sender == 0 && record.mode == GALERNA_MODE_ORDERED && record.kind == GALERNA_LOG_KIND_MESSAGE);
    CHECK(record.size == sizeof record && record.time_ns > 0);
    galerna_log_entry_free(entry);
    return record;
}

/* Every call that takes a log must return GALERNA_ERR_HANDLE and clear its output parameters. */
static void no_log(galerna_log_t *log)
{
    galerna_version_t version = {1, 1};
    galerna_log_entry_t *entry = (galerna_log_entry_t *)&version;
    galerna_log_iter_t *iter = (galerna_log_iter_t *)&version;
    galerna_log_checkpoint_t *checkpoint = (galerna_log_checkpoint_t *)&version;
    galerna_log_checkpoint_writer_t *writer = (galerna_log_checkpoint_writer_t *)&version;
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_append(log, "x", 1, 0, &version));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_try_append(log, "x", 1, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_sync(log, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_wait_durable(log, version, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_durable(log, &version));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_trim(log, version, 0));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_oldest(log, &version, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_end(log, &version, NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_get(log, version, &entry));
    CHECK(entry == NULL);
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_first_at_or_after(log, version, &entry));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_at_time(log, 1, &entry));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_iterate(log, NULL, &iter));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_load(log, &checkpoint));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_begin(log, version, 1, &writer));
    CHECK(iter == NULL && checkpoint == NULL && writer == NULL);
}

/* Calls for the other objects of a log, with an invalid handle. */
static void no_parts(void *handle)
{
    galerna_log_record_t record = {.size = sizeof record};
    galerna_log_checkpoint_info_t info = {.size = sizeof info};
    galerna_log_entry_t *entry = (galerna_log_entry_t *)&record;
    size_t got = 9;
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_entry_record(handle, &record));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_iter_next(handle, &entry));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_info(handle, &info));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_read(handle, &info, sizeof info, &got));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_write(handle, "x", 1));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_commit(handle, 0));
    CHECK(entry == NULL && got == 0);
    galerna_log_entry_free(handle);
    galerna_log_iter_free(handle);
    galerna_log_checkpoint_free(handle);
    galerna_log_checkpoint_abandon(handle);
}

static void opening(void)
{
    char *path = new_log();
    galerna_log_options_t options = {.size = 8};
    galerna_log_t *log = (galerna_log_t *)&options, *second;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open(path, NULL, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open(path, NULL, (galerna_log_t **)((char *)&log + 1)));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open(NULL, NULL, &log));
    CHECK(log == NULL);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open("\xff", NULL, &log));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open(path, &options, &log));
    expect_text("galerna_log_options_t");
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open_read_only(NULL, &log));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_open_read_only(path, NULL));
    EXPECT(GALERNA_ERR_IO, galerna_log_open_read_only(path, &log));
    expect_text(path);
    EXPECT(GALERNA_ERR_IO, galerna_log_open("/dev/null/log", NULL, &log));
    options = (galerna_log_options_t){.size = sizeof options, .segment_bytes = 8191};
    EXPECT(GALERNA_ERR_CONFIG, galerna_log_open(path, &options, &log));
    expect_text("8191");
    /* Zeros select the defaults, and so does NULL. */
    options.segment_bytes = 0;
    OK(galerna_log_open(path, &options, &log));
    EXPECT(GALERNA_ERR_LOG_LOCKED, galerna_log_open(path, NULL, &second));
    expect_text(path);
    CHECK(second == NULL);
    OK(galerna_log_close(log));
    OK(galerna_log_close(log));
    OK(galerna_log_free(log));
    no_log(log);
    OK(galerna_log_open(path, NULL, &second));
    CHECK(second != log);
    no_log(log);
    OK(galerna_log_close(log));
    append(second, "x");
    OK(galerna_log_free(second));
    OK(galerna_log_free(second));
    remove_log(path);
}

static void arguments(galerna_log_t *log)
{
    static const char large[8192];
    galerna_version_t version;
    galerna_log_entry_t *entry;
    galerna_log_iter_t *iter;
    galerna_log_checkpoint_writer_t *writer;
    int found;
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_append(log, NULL, 1, LONG_MS, &version));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_append(log, "x", SIZE_MAX, LONG_MS, &version));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_append(log, "x", 1, LONG_MS, (void *)((char *)&version + 1)));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_try_append(log, NULL, 1, &version));
    EXPECT(GALERNA_ERR_LOG_RECORD_TOO_LARGE, galerna_log_append(log, large, sizeof large, LONG_MS, &version));
    expect_text("8192");
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_durable(log, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_oldest(log, NULL, &found));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_end(log, NULL, &found));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_end(log, &version, (int *)((char *)&found + 1)));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_get(log, NOWHERE, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_first_at_or_after(log, NOWHERE, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_at_time(log, 0, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_iterate(log, NULL, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_iterate(log, (void *)((char *)&version + 1), &iter));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_load(log, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_begin(log, NOWHERE, 1, NULL));
    /* An empty log has neither an end nor an oldest record. */
    found = 9;
    OK(galerna_log_end(log, &version, &found));
    CHECK(found == 0 && same(version, (galerna_version_t){0, 0}));
    found = 9;
    OK(galerna_log_oldest(log, &version, &found));
    CHECK(found == 0);
    OK(galerna_log_durable(log, &version));
    CHECK(same(version, (galerna_version_t){0, 0}));
    OK(galerna_log_at_time(log, UINT64_MAX, &entry));
    CHECK(entry == NULL);
    OK(galerna_log_iterate(log, NULL, &iter));
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(entry == NULL);
    galerna_log_iter_free(iter);
    /* A handle of one kind is not a handle of another kind. */
    OK(galerna_log_checkpoint_begin(log, (galerna_version_t){0, 0}, 1, &writer));
    no_log((galerna_log_t *)writer);
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_iter_next((galerna_log_iter_t *)log, &entry));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_close((galerna_log_t *)writer));
    galerna_log_checkpoint_abandon(writer);
}

/* Finds records by version, by time, and one after another. */
static void finding(galerna_log_t *log)
{
    galerna_log_entry_t *entry;
    galerna_log_iter_t *iter;
    galerna_version_t first = append(log, "one"), second = append(log, "two"), version;
    int found;
    OK(galerna_log_wait_durable(log, second, LONG_MS));
    EXPECT(GALERNA_ERR_TIMED_OUT, galerna_log_wait_durable(log, NOWHERE, 10));
    OK(galerna_log_append(log, NULL, 0, LONG_MS, NULL));
    OK(galerna_log_sync(log, LONG_MS));
    OK(galerna_log_durable(log, &version));
    CHECK(same(version, (galerna_version_t){0, second.sequence + 1}));
    OK(galerna_log_end(log, &version, &found));
    CHECK(found == 1 && version.sequence == second.sequence + 1);
    OK(galerna_log_oldest(log, &version, NULL));
    CHECK(same(version, first));

    OK(galerna_log_get(log, first, &entry));
    galerna_log_record_t one = holds(entry, "one");
    CHECK(same(one.version, first) && one.length == 3);
    OK(galerna_log_first_at_or_after(log, second, &entry));
    galerna_log_record_t two = holds(entry, "two");
    CHECK(two.time_ns > one.time_ns && same(two.version, second));
    OK(galerna_log_get(log, NOWHERE, &entry));
    CHECK(entry == NULL);
    OK(galerna_log_first_at_or_after(log, NOWHERE, &entry));
    CHECK(entry == NULL);

    OK(galerna_log_at_time(log, one.time_ns, &entry));
    CHECK(same(holds(entry, "one").version, first));
    OK(galerna_log_at_time(log, two.time_ns - 1, &entry));
    CHECK(same(holds(entry, "one").version, first));
    OK(galerna_log_at_time(log, UINT64_MAX, &entry));
    CHECK(holds(entry, "").length == 0);
    OK(galerna_log_at_time(log, one.time_ns - 1, &entry));
    CHECK(entry == NULL);

    OK(galerna_log_iterate(log, &second, &iter));
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(same(holds(entry, "two").version, second));
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(holds(entry, "").length == 0);
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(entry == NULL);
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_iter_next(iter, NULL));
    append(log, "four");
    OK(galerna_log_sync(log, LONG_MS));
    OK(galerna_log_iter_next(iter, &entry));
    holds(entry, "four");
    galerna_log_iter_free(iter);
    galerna_log_iter_free(iter);
    no_parts(iter);
}

static void records(galerna_log_t *log)
{
    galerna_log_record_t record = {.size = 8};
    galerna_log_entry_t *entry;
    OK(galerna_log_at_time(log, UINT64_MAX, &entry));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_entry_record(entry, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_entry_record(entry, &record));
    expect_text("galerna_log_record_t");
    galerna_log_entry_free(entry);
    galerna_log_entry_free(entry);
    no_parts(entry);
}

/* When no handle is left, an iterator does not skip a record. */
static void many_entries(galerna_log_t *log)
{
    galerna_log_entry_t *many[2000], *entry;
    galerna_log_iter_t *iter;
    galerna_result_t result;
    size_t count = 0;
    OK(galerna_log_iterate(log, NULL, &iter));
    while ((result = galerna_log_at_time(log, UINT64_MAX, &many[count])) == GALERNA_OK) {
        count++;
        CHECK(count < 2000);
    }
    CHECK(result == GALERNA_ERR_LIMIT && count >= 1000 && many[count] == NULL);
    EXPECT(GALERNA_ERR_LIMIT, galerna_log_iter_next(iter, &entry));
    for (size_t i = 0; i < count; i++) {
        holds(many[i], "four");
    }
    OK(galerna_log_iter_next(iter, &entry));
    holds(entry, "one");
    galerna_log_iter_free(iter);
}

/* Records of a closed log are there when it is opened again. Entries and iterators remain usable after the close, and
 * do not prevent a new writer. */
static void restarting(char *path, galerna_log_t *log)
{
    galerna_log_record_t record = {.size = sizeof record};
    galerna_log_entry_t *entry, *second;
    galerna_log_iter_t *iter;
    galerna_version_t last = append(log, "the last one"), next;
    OK(galerna_log_wait_durable(log, last, LONG_MS));
    OK(galerna_log_get(log, last, &entry));
    OK(galerna_log_iterate(log, &last, &iter));
    append(log, "not synced");
    OK(galerna_log_close(log));
    OK(galerna_log_entry_record(entry, &record));
    CHECK(record.length == 12 && memcmp(record.payload, "the last one", 12) == 0);
    OK(galerna_log_iter_next(iter, &second));
    holds(second, "the last one");
    OK(galerna_log_iter_next(iter, &second));
    /* All records have been durable since the log was closed. */
    holds(second, "not synced");
    galerna_log_entry_free(second);
    galerna_log_iter_free(iter);
    log = open_log(path);
    OK(galerna_log_iterate(log, &last, &iter));
    OK(galerna_log_close(log));
    log = open_log(path);
    OK(galerna_log_entry_record(entry, &record));
    CHECK(record.length == 12 && memcmp(record.payload, "the last one", 12) == 0);
    galerna_log_entry_free(entry);
    OK(galerna_log_iter_next(iter, &second));
    holds(second, "the last one");
    galerna_log_iter_free(iter);
    OK(galerna_log_at_time(log, UINT64_MAX, &entry));
    CHECK(holds(entry, "not synced").version.sequence == last.sequence + 1);
    next = append(log, "after the restart");
    CHECK(next.sequence == last.sequence + 2);
    OK(galerna_log_close(log));
}

static void life(void)
{
    char *path = new_log();
    galerna_log_t *log = open_log(path);
    arguments(log);
    finding(log);
    records(log);
    many_entries(log);
    restarting(path, log);
    remove_log(path);
}

static void trimming(void)
{
    char *path = new_log();
    galerna_log_t *log = open_log(path);
    galerna_log_entry_t *kept, *entry;
    galerna_log_iter_t *iter;
    galerna_version_t versions[20], oldest;
    append_many(log, 20, versions);
    OK(galerna_log_get(log, versions[0], &kept));
    OK(galerna_log_trim(log, versions[15], LONG_MS));
    OK(galerna_log_oldest(log, &oldest, NULL));
    CHECK(oldest.sequence > versions[8].sequence && oldest.sequence <= versions[15].sequence);
    EXPECT(GALERNA_ERR_LOG_TRIMMED, galerna_log_get(log, versions[0], &entry));
    CHECK(entry == NULL);
    expect_text("0.1");
    OK(galerna_log_iterate(log, &versions[0], &iter));
    EXPECT(GALERNA_ERR_LOG_TRIMMED, galerna_log_iter_next(iter, &entry));
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(entry == NULL);
    galerna_log_iter_free(iter);
    OK(galerna_log_iterate(log, NULL, &iter));
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(same(holds(entry, "record ").version, oldest));
    galerna_log_iter_free(iter);
    /* The file of this record is deleted, but its bytes are still readable. */
    holds(kept, "record 0.");
    OK(galerna_log_close(log));
    remove_log(path);
}

static void reading_only(void)
{
    char *path = new_log();
    galerna_log_t *log = open_log(path), *reader, *later;
    galerna_log_entry_t *entry;
    galerna_log_iter_t *iter;
    galerna_log_checkpoint_writer_t *writer;
    galerna_version_t versions[3], version;
    append_many(log, 3, versions);
    OK(galerna_log_open_read_only(path, &reader));
    append(log, "later");
    OK(galerna_log_sync(log, LONG_MS));
    OK(galerna_log_open_read_only(path, &later));
    OK(galerna_log_end(reader, &version, NULL));
    CHECK(same(version, versions[2]));
    OK(galerna_log_get(reader, versions[1], &entry));
    holds(entry, "record 1.");
    OK(galerna_log_at_time(later, UINT64_MAX, &entry));
    holds(entry, "later");
    OK(galerna_log_iterate(reader, NULL, &iter));
    for (int i = 0; i < 3; i++) {
        OK(galerna_log_iter_next(iter, &entry));
        CHECK(same(holds(entry, "record ").version, versions[i]));
    }
    galerna_log_iter_free(iter);
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_append(reader, "x", 1, LONG_MS, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_try_append(reader, "x", 1, NULL));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_sync(reader, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_wait_durable(reader, versions[0], LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_durable(reader, &version));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_trim(reader, versions[0], LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_checkpoint_begin(reader, versions[0], 1, &writer));
    expect_text("reading only");
    OK(galerna_log_close(log));
    OK(galerna_log_close(reader));
    OK(galerna_log_close(later));
    remove_log(path);
}

/* Damage is detected when the record is read, and is reported with file and offset. */
static void damaging(void)
{
    char *path = new_log(), where[64];
    galerna_log_t *log = open_log(path);
    galerna_log_entry_t *entry;
    galerna_log_iter_t *iter;
    galerna_version_t versions[20];
    append_many(log, 20, versions);
    OK(galerna_log_close(log));
    long place = find_text(path, FIRST, "record 1.");
    change_byte(path, FIRST, place);
    log = open_log(path);
    OK(galerna_log_get(log, versions[0], &entry));
    holds(entry, "record 0.");
    OK(galerna_log_iterate(log, NULL, &iter));
    OK(galerna_log_iter_next(iter, &entry));
    holds(entry, "record 0.");
    EXPECT(GALERNA_ERR_LOG_DAMAGED, galerna_log_iter_next(iter, &entry));
    CHECK(entry == NULL);
    expect_text(FIRST);
    /* The record begins shortly before its payload, at a multiple of 8. */
    CHECK(sscanf(strstr(galerna_last_error(), "offset"), "offset %63[0-9]", where) == 1);
    CHECK(strtol(where, NULL, 10) < place && strtol(where, NULL, 10) > place - 128);
    OK(galerna_log_iter_next(iter, &entry));
    CHECK(entry == NULL);
    galerna_log_iter_free(iter);
    EXPECT(GALERNA_ERR_LOG_DAMAGED, galerna_log_get(log, versions[1], &entry));
    OK(galerna_log_get(log, versions[19], &entry));
    holds(entry, "record 19.");
    OK(galerna_log_close(log));
    remove_log(path);

    path = new_log();
    OK(galerna_log_close(open_log(path)));
    change_byte(path, FIRST, 8);
    EXPECT(GALERNA_ERR_LOG_FORMAT, galerna_log_open(path, NULL, &log));
    expect_text(FIRST);
    EXPECT(GALERNA_ERR_LOG_FORMAT, galerna_log_open_read_only(path, &log));
    change_byte(path, FIRST, 8);
    change_byte(path, FIRST, 0);
    EXPECT(GALERNA_ERR_LOG_DAMAGED, galerna_log_open(path, NULL, &log));
    CHECK(log == NULL);
    expect_text(FIRST);
    expect_text("offset 0");
    remove_log(path);
}

static void write_checkpoint(galerna_log_t *log, galerna_version_t version, const char *text, bool commit)
{
    galerna_log_checkpoint_writer_t *writer;
    OK(galerna_log_checkpoint_begin(log, version, 1234, &writer));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_write(writer, NULL, 1));
    OK(galerna_log_checkpoint_write(writer, NULL, 0));
    OK(galerna_log_checkpoint_write(writer, text, 4));
    OK(galerna_log_checkpoint_write(writer, text + 4, strlen(text) - 4));
    if (commit) {
        OK(galerna_log_checkpoint_commit(writer, LONG_MS));
    }
    galerna_log_checkpoint_abandon(writer);
    galerna_log_checkpoint_abandon(writer);
    no_parts(writer);
}

static void expect_checkpoint(galerna_log_t *log, galerna_version_t version, const char *text)
{
    galerna_log_checkpoint_info_t info = {.size = 8};
    galerna_log_checkpoint_t *checkpoint;
    char bytes[64];
    size_t got = 9;
    OK(galerna_log_checkpoint_load(log, &checkpoint));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_info(checkpoint, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_info(checkpoint, &info));
    info.size = sizeof info;
    OK(galerna_log_checkpoint_info(checkpoint, &info));
    CHECK(same(info.version, version) && info.time_ns == 1234 && info.length == strlen(text));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_read(checkpoint, bytes, 1, NULL));
    EXPECT(GALERNA_ERR_ARGUMENT, galerna_log_checkpoint_read(checkpoint, NULL, 1, &got));
    OK(galerna_log_checkpoint_read(checkpoint, NULL, 0, &got));
    CHECK(got == 0);
    OK(galerna_log_checkpoint_read(checkpoint, bytes, 3, &got));
    CHECK(got == 3);
    OK(galerna_log_checkpoint_read(checkpoint, bytes + 3, sizeof bytes - 3, &got));
    CHECK(got + 3 == strlen(text) && memcmp(bytes, text, strlen(text)) == 0);
    OK(galerna_log_checkpoint_read(checkpoint, bytes, sizeof bytes, &got));
    CHECK(got == 0);
    galerna_log_checkpoint_free(checkpoint);
    galerna_log_checkpoint_free(checkpoint);
    no_parts(checkpoint);
}

static void checkpoints(void)
{
    char *path = new_log();
    galerna_log_t *log = open_log(path), *reader;
    galerna_log_checkpoint_t *checkpoint;
    galerna_log_checkpoint_writer_t *writer;
    galerna_version_t versions[3];
    append_many(log, 3, versions);
    OK(galerna_log_checkpoint_load(log, &checkpoint));
    CHECK(checkpoint == NULL);
    write_checkpoint(log, versions[0], "the first state", true);
    expect_checkpoint(log, versions[0], "the first state");
    write_checkpoint(log, versions[1], "given up", false);
    expect_checkpoint(log, versions[0], "the first state");
    write_checkpoint(log, versions[2], "the second state", true);
    expect_checkpoint(log, versions[2], "the second state");
    OK(galerna_log_open_read_only(path, &reader));
    expect_checkpoint(reader, versions[2], "the second state");
    OK(galerna_log_close(reader));
    OK(galerna_log_checkpoint_begin(log, versions[2], 1, &writer));
    OK(galerna_log_close(log));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_checkpoint_commit(writer, LONG_MS));
    no_parts(writer);
    char name[] = "0000000000000000-0000000000000003.snapshot";
    change_byte(path, name, find_text(path, name, "second"));
    log = open_log(path);
    EXPECT(GALERNA_ERR_LOG_DAMAGED, galerna_log_checkpoint_load(log, &checkpoint));
    CHECK(checkpoint == NULL);
    expect_text(name);
    OK(galerna_log_close(log));
    remove_log(path);
}

/* If the disk is behind, an append waits or returns GALERNA_ERR_WOULD_BLOCK. */
static void backlog(void)
{
    char *path = new_log();
    galerna_log_options_t options = {.size = sizeof options, .backlog_max_bytes = 1};
    galerna_log_t *log;
    galerna_version_t version, end;
    OK(galerna_log_open(path, &options, &log));
    for (int i = 0; i < 100; i++) {
        galerna_result_t result = i % 2 == 0 ? galerna_log_try_append(log, "x", 1, NULL)
                                             : galerna_log_append(log, "x", 1, 0, NULL);
        CHECK(result == GALERNA_OK || result == GALERNA_ERR_WOULD_BLOCK);
    }
    for (int i = 0; i < 10; i++) {
        version = append(log, "patient");
    }
    OK(galerna_log_close(log));
    OK(galerna_log_open_read_only(path, &log));
    OK(galerna_log_end(log, &end, NULL));
    CHECK(same(end, version));
    OK(galerna_log_close(log));
    remove_log(path);
}

/* Inside a callback of a group no call waits. */
static void in_callback(void *context, const galerna_message_t *message)
{
    galerna_log_t *log = *(galerna_log_t **)context;
    galerna_log_entry_t *entry;
    galerna_version_t version = {0, 1};
    OK(galerna_log_append(log, message->payload, message->length, LONG_MS, &version));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_sync(log, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_wait_durable(log, version, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_trim(log, version, LONG_MS));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_close(log));
    EXPECT(GALERNA_ERR_MISUSE, galerna_log_free(log));
    OK(galerna_log_close(NULL));
    OK(galerna_log_get(log, NOWHERE, &entry));
}

static void with_a_group(void)
{
    char *path = new_log(), *toml = make_config("shm", 1, LONG_MS);
    galerna_log_t *log = open_log(path);
    galerna_callbacks_t callbacks = {.size = sizeof callbacks, .deliver = in_callback, .context = &log};
    galerna_group_t *group;
    galerna_log_entry_t *entry;
    OK(join(toml, 1, &callbacks, GALERNA_DRIVE_DISPATCH, &group));
    OK(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "delivered", 9, LONG_MS, NULL));
    OK(galerna_group_leave(group, LONG_MS));
    OK(galerna_group_free(group));
    OK(galerna_log_sync(log, LONG_MS));
    OK(galerna_log_get(log, (galerna_version_t){0, 1}, &entry));
    holds(entry, "delivered");
    OK(galerna_log_close(log));
    remove_log(path);
    free(toml);
}

int main(void)
{
    uint64_t word = 0;
    OK(galerna_log_close(NULL));
    OK(galerna_log_free(NULL));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_close((galerna_log_t *)&word));
    EXPECT(GALERNA_ERR_HANDLE, galerna_log_free((galerna_log_t *)&word));
    no_log(NULL);
    no_log((galerna_log_t *)&word);
    no_log((galerna_log_t *)UINTPTR_MAX);
    no_parts(NULL);
    no_parts(&word);
    opening();
    life();
    trimming();
    reading_only();
    damaging();
    checkpoints();
    backlog();
    with_a_group();
    return 0;
}
