#define _GNU_SOURCE
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "A replicated counter: every member adds to it, and all members end with the same value.\n"
    "\n"
    "Usage: counter [OPTION...] CONFIG.toml MEMBER\n"
    "\n"
    "CONFIG.toml is the group's configuration, MEMBER the id of this process in it.\n"
    "\n"
    "  --increments N   add 1 N times (default 1000)\n"
    "  --pause MS       wait MS milliseconds after each addition (default 0)\n"
    "  --join ADDRESS   join the running group, and start from its value. MEMBER is a new id. ADDRESS is\n"
    "                   the address at which the members reach this process, as in the configuration\n"
    "  --help           print this text and exit\n"
    "\n"
    "Prints each view on stderr, and the value once every member has finished or failed. The exit status\n"
    "is 0, or 1 after a failure, or 2 if the command line is wrong.\n";

void fail(const char *what, const char *why)
{
    fprintf(stderr, "counter: %s: %s\n", what, why);
    exit(1);
}

static void misused(const char *what, const char *why)
{
    fprintf(stderr, "counter: %s: %s\nTry `counter --help`.\n", what, why);
    exit(2);
}

static unsigned long number(const char *text, unsigned long most, const char *what)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > most) {
        misused(text, what);
    }
    return value;
}

options_t options_parse(int argc, char **argv)
{
    static const struct option known[] = {{"increments", required_argument, NULL, 'i'},
                                          {"pause", required_argument, NULL, 'p'},
                                          {"join", required_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    options_t options = {.increments = 1000};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'i':
            options.increments = number(optarg, 1000000000, "not a number of increments, at most 1000000000");
            break;
        case 'p':
            options.pause_ms = number(optarg, 3600000, "not a number of milliseconds, at most 3600000");
            break;
        case 'j':
            /* The address is inserted into a TOML string. */
            if (*optarg == '\0' || strpbrk(optarg, "\"\\\n\r\t") != NULL) {
                misused(optarg, "not an address");
            }
            options.address = optarg;
            break;
        case 'h':
            fputs(HELP, stdout);
            exit(0);
        default:
            /* getopt_long has printed the error. */
            fprintf(stderr, "Try `counter --help`.\n");
            exit(2);
        }
    }
    if (argc - optind != 2) {
        misused("usage", "counter [OPTION...] CONFIG.toml MEMBER");
    }
    options.config = argv[optind];
    options.member = (uint32_t)number(argv[optind + 1], UINT32_MAX, "not the id of a member");
    return options;
}
