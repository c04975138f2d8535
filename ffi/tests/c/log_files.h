/* Directories for the tests of the log. */
#ifndef LOG_FILES_H
#define LOG_FILES_H

#include "cluster.h"

/* Returns the path of a directory that does not exist yet. To be passed to remove_log(). */
char *new_log(void);

/* Removes a log's directory and frees its path. */
void remove_log(char *path);

/* Changes one byte of a file in a log's directory. */
void change_byte(const char *path, const char *file, long offset);

/* Returns the offset at which a file of a log contains a text. Ends the test if the text is not found. */
long find_text(const char *path, const char *file, const char *text);

#endif
