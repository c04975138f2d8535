/* A disk that fails. Loaded before the C library by LD_PRELOAD, this makes the log's write or sync calls fail with EIO.
 * FAILING_CALLS names the calls ("sync" or "write"). They fail on files in FAILING_DIRECTORY once the file
 * FAILING_SINCE exists. With "slow" a sync takes 400 ms, and no call fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef int sync_fn(int);
typedef ssize_t write_fn(int, const void *, size_t, off64_t);

static int fails(int fd, const char *call)
{
    const char *directory = getenv("FAILING_DIRECTORY");
    const char *calls = getenv("FAILING_CALLS");
    const char *since = getenv("FAILING_SINCE");
    if (!directory || !calls || !since || strcmp(calls, call) != 0 || access(since, F_OK) != 0)
        return 0;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(name, path, sizeof path - 1);
    size_t whole = strlen(directory);
    if (len < 0 || (size_t)len < whole || memcmp(path, directory, whole) != 0)
        return 0;
    return (size_t)len == whole || path[whole] == '/';
}

static int synced(const char *name, int fd)
{
    if (fails(fd, "sync")) {
        errno = EIO;
        return -1;
    }
    if (fails(fd, "slow"))
        usleep(400000);
    return ((sync_fn *)dlsym(RTLD_NEXT, name))(fd);
}

int fsync(int fd)
{
    return synced("fsync", fd);
}

int fdatasync(int fd)
{
    return synced("fdatasync", fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset)
{
    write_fn *call = (write_fn *)dlsym(RTLD_NEXT, "pwrite64");
    if (fails(fd, "write")) {
        /* Half of the bytes are written: a failing disk does not report how many it wrote. */
        (void)!call(fd, bytes, len / 2, offset);
        errno = EIO;
        return -1;
    }
    return call(fd, bytes, len, offset);
}
