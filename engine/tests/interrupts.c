/* A system that interrupts calls. Loaded before the C library by LD_PRELOAD, this makes every third interruptible call
 * of a thread fail with EINTR before anything was done. A call on a non-blocking descriptor is never interrupted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static int is_interrupted(void)
{
    static _Thread_local unsigned calls;
    if (++calls % 3)
        return 0;
    errno = EINTR;
    return 1;
}

static int waits(int fd, int flags)
{
    return !(flags & MSG_DONTWAIT) && !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

#define INTERRUPTED(can_be, result, name, parameters, ...)                       \
    result name parameters                                                       \
    {                                                                            \
        if ((can_be) && is_interrupted())                                        \
            return -1;                                                           \
        return ((result(*) parameters)dlsym(RTLD_NEXT, #name))(__VA_ARGS__);     \
    }

INTERRUPTED(1, int, fallocate, (int fd, int mode, off_t at, off_t len), fd, mode, at, len)
INTERRUPTED(1, int, fallocate64, (int fd, int mode, off64_t at, off64_t len), fd, mode, at, len)
INTERRUPTED(1, int, ftruncate, (int fd, off_t len), fd, len)
INTERRUPTED(1, int, ftruncate64, (int fd, off64_t len), fd, len)
INTERRUPTED(1, int, flock, (int fd, int how), fd, how)
INTERRUPTED(1, int, fsync, (int fd), fd)
INTERRUPTED(1, int, fdatasync, (int fd), fd)
INTERRUPTED(1, ssize_t, pread, (int fd, void *to, size_t len, off_t at), fd, to, len, at)
INTERRUPTED(1, ssize_t, pread64, (int fd, void *to, size_t len, off64_t at), fd, to, len, at)
INTERRUPTED(1, ssize_t, pwrite, (int fd, const void *from, size_t len, off_t at), fd, from, len, at)
INTERRUPTED(1, ssize_t, pwrite64, (int fd, const void *from, size_t len, off64_t at), fd, from, len, at)
INTERRUPTED(waits(fd, 0), ssize_t, read, (int fd, void *to, size_t len), fd, to, len)
INTERRUPTED(waits(fd, 0), ssize_t, write, (int fd, const void *from, size_t len), fd, from, len)
INTERRUPTED(waits(fd, flags), ssize_t, recv, (int fd, void *to, size_t len, int flags), fd, to, len, flags)
INTERRUPTED(waits(fd, flags), ssize_t, send, (int fd, const void *from, size_t len, int flags), fd, from, len, flags)
INTERRUPTED(waits(fd, flags), ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), fd, message, flags)
INTERRUPTED(waits(fd, flags), ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
INTERRUPTED(waits(fd, 0), int, accept4, (int fd, struct sockaddr *from, socklen_t *len, int flags), fd, from, len, flags)
INTERRUPTED(waits(fd, 0), int, connect, (int fd, const struct sockaddr *to, socklen_t len), fd, to, len)
INTERRUPTED(timeout_ms, int, poll, (struct pollfd *fds, nfds_t count, int timeout_ms), fds, count, timeout_ms)
INTERRUPTED(timeout_ms, int, epoll_wait, (int fd, struct epoll_event *events, int most, int timeout_ms), fd, events, most,
            timeout_ms)
