/*
 * A line log: stores the lines of its input durably, and finds them by version and by time.
 *
 * Usage: log DIRECTORY append           appends the lines of the standard input, prints the version of the last line
 *        log DIRECTORY list [VERSION]   prints all lines, or those from this version on
 *        log DIRECTORY get VERSION      prints the line of this version
 *        log DIRECTORY at TIME          prints the last line at this time, in nanoseconds since 1970
 *        log DIRECTORY trim VERSION     removes the lines before this version, in whole segments
 *
 * Each line is printed after its version and its time. Any number of processes may read while one process appends.
 */
#define _POSIX_C_SOURCE 200809L
#include <galerna.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 60000u
#define SEGMENT_BYTES (1u << 20)

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "log: %s: %s\n", what, why);
    exit(1);
}

static void check(galerna_result_t result, const char *what)
{
    if (result != GALERNA_OK) {
        fail(what, galerna_last_error());
    }
}

static uint64_t parse(const char *text, const char *what)
{
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0) {
        fail(text, what);
    }
    return number;
}

/* A log without a group has only one view, so the sequence number alone identifies a version. */
static galerna_version_t parse_version(const char *text)
{
    return (galerna_version_t){.view = 0, .sequence = parse(text, "not a version")};
}

static galerna_log_t *open_to_write(const char *directory)
{
    galerna_log_options_t options = {.size = sizeof options, .segment_bytes = SEGMENT_BYTES};
    galerna_log_t *log;
    check(galerna_log_open(directory, &options, &log), "open");
    return log;
}

static galerna_log_t *open_to_read(const char *directory)
{
    galerna_log_t *log;
    check(galerna_log_open_read_only(directory, &log), "open");
    return log;
}

/* Fails with the reason if not all lines are durable. */
static void close_log(galerna_log_t *log)
{
    check(galerna_log_close(log), "close");
}

static void append_lines(const char *directory)
{
    galerna_log_t *log = open_to_write(directory);
    galerna_version_t last;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, stdin)) >= 0) {
        size_t bytes = (size_t)length - (line[length - 1] == '\n');
        /* The call copies the line and returns. A single sync makes many lines durable. */
        check(galerna_log_append(log, line, bytes, TIMEOUT_MS, NULL), "append");
    }
    if (ferror(stdin)) {
        fail("standard input", strerror(errno));
    }
    free(line);
    check(galerna_log_sync(log, TIMEOUT_MS), "sync");
    check(galerna_log_durable(log, &last), "durable");
    printf("%" PRIu64 "\n", last.sequence);
    close_log(log);
}

/* Prints a line and frees its entry. */
static void print_line(galerna_log_entry_t *entry)
{
    galerna_log_record_t record = {.size = sizeof record};
    check(galerna_log_entry_record(entry, &record), "record");
    printf("%" PRIu64 " %" PRIu64 " ", record.version.sequence, record.time_ns);
    fwrite(record.payload, 1, record.length, stdout);
    putchar('\n');
    galerna_log_entry_free(entry);
}

static void list_lines(const char *directory, const galerna_version_t *from)
{
    galerna_log_t *log = open_to_read(directory);
    galerna_log_iter_t *iter;
    galerna_log_entry_t *entry;
    check(galerna_log_iterate(log, from, &iter), "list");
    for (;;) {
        check(galerna_log_iter_next(iter, &entry), "list");
        if (entry == NULL) {
            break;
        }
        print_line(entry);
    }
    galerna_log_iter_free(iter);
    close_log(log);
}

static void print_found(galerna_log_entry_t *entry, const char *wanted)
{
    if (entry == NULL) {
        fail(wanted, "there is no line of this version or time");
    }
    print_line(entry);
}

static void get_line(const char *directory, const char *wanted)
{
    galerna_log_t *log = open_to_read(directory);
    galerna_log_entry_t *entry;
    check(galerna_log_get(log, parse_version(wanted), &entry), "get");
    print_found(entry, wanted);
    close_log(log);
}

static void line_at(const char *directory, const char *wanted)
{
    galerna_log_t *log = open_to_read(directory);
    galerna_log_entry_t *entry;
    check(galerna_log_at_time(log, parse(wanted, "not a time"), &entry), "at");
    print_found(entry, wanted);
    close_log(log);
}

static void trim_lines(const char *directory, const char *before)
{
    galerna_log_t *log = open_to_write(directory);
    check(galerna_log_trim(log, parse_version(before), TIMEOUT_MS), "trim");
    close_log(log);
}

static int usage(void)
{
    fprintf(stderr, "usage: log DIRECTORY append | list [VERSION] | get VERSION | at TIME | trim VERSION\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        return usage();
    }
    const char *directory = argv[1], *command = argv[2], *argument = argv[3];
    if (strcmp(command, "append") == 0 && argument == NULL) {
        append_lines(directory);
    } else if (strcmp(command, "list") == 0) {
        galerna_version_t from = {0, 0};
        if (argument != NULL) {
            from = parse_version(argument);
        }
        list_lines(directory, argument != NULL ? &from : NULL);
    } else if (strcmp(command, "get") == 0 && argument != NULL) {
        get_line(directory, argument);
    } else if (strcmp(command, "at") == 0 && argument != NULL) {
        line_at(directory, argument);
    } else if (strcmp(command, "trim") == 0 && argument != NULL) {
        trim_lines(directory, argument);
    } else {
        return usage();
    }
    if (fflush(stdout) != 0) {
        fail("standard output", strerror(errno));
    }
    return 0;
}
