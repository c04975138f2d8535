/* The command line. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdint.h>

typedef struct {
    const char *config;
    uint32_t member;
    unsigned long increments;
    unsigned long pause_ms;
    /* The address at which the other members reach a joining process. NULL for a founder. */
    const char *address;
} options_t;

/* Parses the command line. Ends the program after --help, and after an error with a text. */
options_t options_parse(int argc, char **argv);

/* Prints an error with its subject (`what`) and its reason (`why`), and ends the program. */
void fail(const char *what, const char *why);

#endif
