/* Falsifies the clock and the disk of a member's process. Loaded before the C library by LD_PRELOAD, it adds an offset
 * to the wall clock, and makes the calls by which the log writes fail with EIO. The file that GALERNA_CHAOS_SHIM names
 * controls both at any moment. The disk is the directory GALERNA_CHAOS_DISK. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The content of the control file, which the test writes in the host's byte order. */
struct control {
    volatile int64_t offset_ns;
    volatile int32_t syncs_fail;
    volatile int32_t writes_fail;
};

static const struct control *control(void)
{
    static const struct control *mapped;
    static int looked;
    if (!looked) {
        const char *path = getenv("GALERNA_CHAOS_SHIM");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            void *memory = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, fd, 0);
            if (memory != MAP_FAILED)
                mapped = memory;
            close(fd);
        }
        looked = 1;
    }
    return mapped;
}

__attribute__((constructor)) static void look_early(void)
{
    control();
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*call)(clockid_t, struct timespec *);
    if (!call)
        call = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = call(clock, now);
    const struct control *told = control();
    if (result == 0 && told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_nsec + told->offset_ns % 1000000000;
        now->tv_sec += told->offset_ns / 1000000000;
        if (ns >= 1000000000) {
            now->tv_sec++;
            ns -= 1000000000;
        } else if (ns < 0) {
            now->tv_sec--;
            ns += 1000000000;
        }
        now->tv_nsec = ns;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

static int is_on_disk(int fd)
{
    const char *directory = getenv("GALERNA_CHAOS_DISK");
    char name[64], path[PATH_MAX];
    if (!directory)
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(name, path, sizeof path - 1);
    size_t whole = strlen(directory);
    return len >= 0 && (size_t)len >= whole && memcmp(path, directory, whole) == 0;
}

static int synced(const char *name, int fd)
{
    const struct control *told = control();
    if (told && told->syncs_fail && is_on_disk(fd)) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
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
    ssize_t (*call)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    const struct control *told = control();
    if (told && told->writes_fail && is_on_disk(fd)) {
        /* Half of the bytes are written: a failing disk does not report how many it wrote. */
        (void)!call(fd, bytes, len / 2, offset);
        errno = EIO;
        return -1;
    }
    return call(fd, bytes, len, offset);
}
