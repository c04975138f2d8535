#define _POSIX_C_SOURCE 200809L
#include "log_files.h"

#include <dirent.h>
#include <unistd.h>

#define PATH_BYTES 512

static void in_log(char *place, const char *path, const char *file)
{
    CHECK(snprintf(place, PATH_BYTES, "%s/%s", path, file) < PATH_BYTES);
}

static void remove_directory(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    CHECK(directory != NULL);
    while ((entry = readdir(directory)) != NULL) {
        char file[PATH_BYTES];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            in_log(file, path, entry->d_name);
            CHECK(unlink(file) == 0);
        }
    }
    closedir(directory);
    CHECK(rmdir(path) == 0);
}

char *new_log(void)
{
    static unsigned number;
    const char *folder = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    char *path = malloc(PATH_BYTES);
    CHECK(path != NULL);
    int length = snprintf(path, PATH_BYTES, "%s/galerna-c-log-%ld-%u", folder, (long)getpid(), number++);
    CHECK(length < PATH_BYTES);
    if (access(path, F_OK) == 0) {
        /* Left over from a process with the same id that was killed. */
        remove_directory(path);
    }
    return path;
}

void remove_log(char *path)
{
    remove_directory(path);
    free(path);
}

void change_byte(const char *path, const char *file, long offset)
{
    char place[PATH_BYTES];
    in_log(place, path, file);
    FILE *opened = fopen(place, "r+b");
    CHECK(opened != NULL && fseek(opened, offset, SEEK_SET) == 0);
    int byte = fgetc(opened);
    CHECK(byte != EOF && fseek(opened, offset, SEEK_SET) == 0);
    CHECK(fputc(byte ^ 0x41, opened) != EOF && fclose(opened) == 0);
}

long find_text(const char *path, const char *file, const char *text)
{
    char place[PATH_BYTES];
    size_t length = strlen(text), matched = 0;
    in_log(place, path, file);
    FILE *opened = fopen(place, "rb");
    CHECK(opened != NULL);
    /* A mismatch restarts at the present byte only. This is sufficient because no text of these tests contains its
     * own beginning again. */
    for (int byte; matched < length && (byte = fgetc(opened)) != EOF;) {
        matched = byte == text[matched] ? matched + 1 : byte == text[0];
    }
    CHECK(matched == length);
    long end = ftell(opened);
    fclose(opened);
    return end - (long)length;
}
