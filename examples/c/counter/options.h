/* The command line. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdint.h>

typedef struct {
    const char *config;
    uint32_t member;
    unsigned long increments;
    unsigned long pause_ms;
    /* Where the others find a member that joins; NULL for a founder. */
    const char *address;
} options_t;

/* Ends the program when there is nothing to run: after --help, and with a text after an error. */
options_t options_parse(int argc, char **argv);

/* Ends the program: `what` went wrong, for this reason. */
void fail(const char *what, const char *why);

#endif
