/* A slow disk on command: an LD_PRELOAD library that lets reads of partitions take their time.
 *
 * PACED_GB_S      10⁹ bytes a second that all threads together get: a disk's bandwidth
 * PACED_LATENCY_S seconds that a thread waits for each of its reads: a disk's, or a network's, latency
 *
 * Only reads by pread of 64 KiB and more, of files whose name ends in ".ckptfmt": what is looked at when
 * they are opened is not what is measured. Rings are refused: they would pass by here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

typedef ssize_t (*Read)(int, void *, size_t, off_t);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double free_at; /* when the disk has done all that it was asked for */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sleep_until(double when)
{
    struct timespec t = {(time_t)when, (long)((when - (double)(time_t)when) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        continue;
}

static double setting(const char *name)
{
    const char *text = getenv(name);
    return text != NULL ? atof(text) : 0;
}

static int is_partition(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    static const char suffix[] = ".ckptfmt";
    const size_t n = sizeof suffix - 1;
    return length >= (ssize_t)n && memcmp(path + length - n, suffix, n) == 0;
}

static ssize_t paced(Read real, int fd, void *address, size_t nbytes, off_t offset)
{
    double gb_s = setting("PACED_GB_S"), began = now(), due = began + setting("PACED_LATENCY_S");
    ssize_t got = real(fd, address, nbytes, offset);
    if (got <= 0 || nbytes < 65536 || !is_partition(fd))
        return got;
    if (gb_s > 0) {
        pthread_mutex_lock(&lock);
        free_at = (free_at > began ? free_at : began) + (double)got / gb_s / 1e9;
        due = due > free_at ? due : free_at;
        pthread_mutex_unlock(&lock);
    }
    sleep_until(due);
    return got;
}

ssize_t pread(int fd, void *address, size_t nbytes, off_t offset)
{
    static Read real;
    if (real == NULL)
        real = (Read)dlsym(RTLD_NEXT, "pread");
    return paced(real, fd, address, nbytes, offset);
}

ssize_t pread64(int fd, void *address, size_t nbytes, off_t offset)
{
    static Read real;
    if (real == NULL)
        real = (Read)dlsym(RTLD_NEXT, "pread64");
    return paced(real, fd, address, nbytes, offset);
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    if (number == SYS_io_uring_setup) {
        errno = ENOSYS;
        return -1;
    }
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (real == NULL)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
