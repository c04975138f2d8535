/* A host with a wrong clock. Loaded before the C library by LD_PRELOAD, this adds the seconds in the file SHIFTED_BY to
 * CLOCK_REALTIME. They may be negative. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int clock_fn(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = ((clock_fn *)dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
    const char *path = getenv("SHIFTED_BY");
    if (result != 0 || clock != CLOCK_REALTIME || !path)
        return result;
    char text[32] = "";
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0)
            now->tv_sec += atoll(text);
        close(file);
    }
    return result;
}
