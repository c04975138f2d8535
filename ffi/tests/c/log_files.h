/* Directories for the tests of the log. */
#ifndef LOG_FILES_H
#define LOG_FILES_H

#include "cluster.h"

/* The path of a directory that is not there yet; to be given to remove_log(). */
char *new_log(void);

/* Removes a log's directory, and frees its path. */
void remove_log(char *path);

/* Changes one byte of a file in a log's directory. */
void change_byte(const char *path, const char *file, long offset);

/* Where a file of a log holds a text; the test ends if it does not. */
long find_text(const char *path, const char *file, const char *text);

#endif
