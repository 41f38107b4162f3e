/* Faults on command: an LD_PRELOAD library between ckptfmt (and Python) and the C library.
 *
 * FAULTY_IO holds rules, one in a line: CALL[@PATH]:FIRST[+]:ACTION[=VALUE]
 *   CALL    pread pwrite write fsync fsync_folder rename exchange mkdir unlink create
 *           direct_open open fallocate truncate flock cachestat statx setup (of a ring), or `step`: whatever changes the disk;
 *           of the fake ring submit, wait and uring (a completion)
 *   @PATH   only where the path (of a rename: both) contains this
 *   FIRST   the how-many-th matching call; with + it and all that follow
 *   ACTION  fail=ERRNO, short=NBYTES, kill (a write is half done by then), log (a line in the file
 *           FAULTY_IO_LOG), hold (until the file FAULTY_IO_GATE exists)
 * A line `fake_ring` puts fake_ring.c in the place of the kernel's io_uring.
 */
#define _GNU_SOURCE
#include "faulty_io.h"
#include "syscalls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

long real_syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define DECIDE(call, fd, path, offset, nbytes)                                                     \
    struct verdict verdict = decide(call, fd, path, offset, nbytes);                               \
    if (verdict.kind == KILL)                                                                      \
        die();                                                                                     \
    if (verdict.kind == FAIL) {                                                                    \
        errno = (int)verdict.value;                                                                \
        return -1;                                                                                 \
    }

/* ---- reads ---- */

long faulty_pread(int fd, void *address, size_t nbytes, long long offset, struct verdict verdict)
{
    if (verdict.kind == KILL)
        die();
    if (verdict.kind == FAIL)
        return -verdict.value;
    if (verdict.kind != SHORT || (size_t)verdict.value >= nbytes) {
        long got = real_syscall(SYS_pread64, fd, address, nbytes, offset);
        return got < 0 ? -errno : got;
    }
    /* Read all of it elsewhere, as a direct read must, and hand out the beginning. */
    void *whole = aligned_alloc(4096, (nbytes + 4095) / 4096 * 4096);
    long got = real_syscall(SYS_pread64, fd, whole, nbytes, offset);
    if (got < 0)
        got = -errno;
    if (got > verdict.value)
        got = verdict.value;
    if (got > 0)
        memcpy(address, whole, (size_t)got);
    free(whole);
    return got;
}

static ssize_t read_at(int fd, void *address, size_t nbytes, long long offset)
{
    struct verdict verdict = decide("pread", fd, NULL, offset, nbytes);
    long got = faulty_pread(fd, address, nbytes, offset, verdict);
    if (got < 0)
        errno = (int)-got;
    return got < 0 ? -1 : got;
}

ssize_t pread(int fd, void *a, size_t n, off_t o) { return read_at(fd, a, n, o); }
ssize_t pread64(int fd, void *a, size_t n, off64_t o) { return read_at(fd, a, n, o); }

static ssize_t readv_at(int fd, const struct iovec *v, int count, long long offset, int flags)
{
    if (count == 1 && flags == 0)
        return read_at(fd, v->iov_base, v->iov_len, offset);
    DECIDE("pread", fd, NULL, offset, 0)
    return real_syscall(SYS_preadv2, fd, v, count, offset, 0, flags);
}

ssize_t preadv(int fd, const struct iovec *v, int n, off_t o) { return readv_at(fd, v, n, o, 0); }
ssize_t preadv64(int fd, const struct iovec *v, int n, off64_t o) { return readv_at(fd, v, n, o, 0); }
ssize_t preadv2(int fd, const struct iovec *v, int n, off_t o, int f) { return readv_at(fd, v, n, o, f); }
ssize_t preadv64v2(int fd, const struct iovec *v, int n, off64_t o, int f) { return readv_at(fd, v, n, o, f); }

/* ---- writes ---- */

static ssize_t write_at(const char *call, int fd, const void *data, size_t nbytes, long long offset)
{
    struct verdict verdict = decide(call, fd, NULL, offset, nbytes);
    if (verdict.kind == FAIL) {
        errno = (int)verdict.value;
        return -1;
    }
    if (verdict.kind == KILL)
        nbytes /= 2;
    if (verdict.kind == SHORT && nbytes > (size_t)verdict.value)
        nbytes = (size_t)verdict.value;
    ssize_t done = offset < 0 ? real_syscall(SYS_write, fd, data, nbytes)
                              : real_syscall(SYS_pwrite64, fd, data, nbytes, offset);
    if (verdict.kind == KILL)
        die();
    return done;
}

ssize_t write(int fd, const void *d, size_t n) { return write_at("write", fd, d, n, -1); }
ssize_t pwrite(int fd, const void *d, size_t n, off_t o) { return write_at("pwrite", fd, d, n, o); }
ssize_t pwrite64(int fd, const void *d, size_t n, off64_t o) { return write_at("pwrite", fd, d, n, o); }

int fsync(int fd)
{
    struct stat status;
    int folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
    DECIDE(folder ? "fsync_folder" : "fsync", fd, NULL, 0, 0)
    return (int)real_syscall(SYS_fsync, fd);
}

static int reserve(int fd, int mode, long long offset, long long nbytes)
{
    DECIDE("fallocate", fd, NULL, offset, (size_t)nbytes)
    return (int)real_syscall(SYS_fallocate, fd, mode, offset, nbytes);
}

int fallocate(int fd, int m, off_t o, off_t n) { return reserve(fd, m, o, n); }
int fallocate64(int fd, int m, off64_t o, off64_t n) { return reserve(fd, m, o, n); }

static int resize(int fd, long long nbytes)
{
    DECIDE("truncate", fd, NULL, 0, (size_t)nbytes)
    return (int)real_syscall(SYS_ftruncate, fd, nbytes);
}

int ftruncate(int fd, off_t n) { return resize(fd, n); }
int ftruncate64(int fd, off64_t n) { return resize(fd, n); }

int flock(int fd, int operation)
{
    DECIDE("flock", fd, NULL, 0, 0)
    return (int)real_syscall(SYS_flock, fd, operation);
}

/* ---- names ---- */

static const char *full(int dir_fd, const char *path, char *out, size_t room)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir_fd);
    long n = *path == '/' || dir_fd == AT_FDCWD
        ? 0 : real_syscall(SYS_readlinkat, AT_FDCWD, link, out, room - 1);
    snprintf(out + (n > 0 ? n : 0), room - (n > 0 ? n : 0), "%s%s", n > 0 ? "/" : "", path);
    return out;
}

static int open_at(int dir_fd, const char *path, int flags, mode_t mode)
{
    char where[PATH_MAX * 2];
    const char *name = full(dir_fd, path, where, sizeof where);
    DECIDE(flags & O_CREAT ? "create" : flags & O_DIRECT ? "direct_open" : "open", -1, name, 0, 0)
    return (int)real_syscall(SYS_openat, dir_fd, path, flags, (long)mode);
}

#define MODE(flags, last)                                                                          \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
        va_list list;                                                                              \
        va_start(list, last);                                                                      \
        mode = va_arg(list, mode_t);                                                               \
        va_end(list);                                                                              \
    }

int open(const char *p, int f, ...) { MODE(f, f) return open_at(AT_FDCWD, p, f, mode); }
int open64(const char *p, int f, ...) { MODE(f, f) return open_at(AT_FDCWD, p, f, mode); }
int openat(int d, const char *p, int f, ...) { MODE(f, f) return open_at(d, p, f, mode); }
int openat64(int d, const char *p, int f, ...) { MODE(f, f) return open_at(d, p, f, mode); }

int close(int fd)
{
    if (with_fake_ring)
        fake_ring_closed(fd);
    return (int)real_syscall(SYS_close, fd);
}

static int rename_at(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    char where[4 * PATH_MAX];
    full(from_fd, from, where, sizeof where);
    size_t n = strlen(where);
    full(to_fd, to, where + n + snprintf(where + n, 5, " -> "), sizeof where - n - 5);
    DECIDE(flags & CKPTFMT_RENAME_EXCHANGE ? "exchange" : "rename", -1, where, flags, 0)
    return (int)real_syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int f, const char *from, int t, const char *to) { return rename_at(f, from, t, to, 0); }

int mkdirat(int fd, const char *path, mode_t mode)
{
    char where[2 * PATH_MAX];
    const char *name = full(fd, path, where, sizeof where);
    DECIDE("mkdir", -1, name, 0, 0)
    return (int)real_syscall(SYS_mkdirat, fd, path, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int fd, const char *path, int flags)
{
    char where[2 * PATH_MAX];
    const char *name = full(fd, path, where, sizeof where);
    DECIDE("unlink", -1, name, 0, 0)
    return (int)real_syscall(SYS_unlinkat, fd, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* ---- the entry for calls that the C library does not know ---- */

static long as_errno(long result)
{
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

long syscall(long number, ...)
{
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_renameat2)
        return rename_at((int)a[0], (char *)a[1], (int)a[2], (char *)a[3], (unsigned)a[4]);
    if (number == CKPTFMT_NR_IO_URING_SETUP) {
        DECIDE("setup", -1, "", a[0], 0)
        if (with_fake_ring)
            return as_errno(fake_ring_setup((unsigned)a[0], (void *)a[1]));
    } else if (number == CKPTFMT_NR_CACHESTAT) {
        DECIDE("cachestat", (int)a[0], NULL, 0, 0)
    } else if (number == CKPTFMT_NR_STATX) {
        DECIDE("statx", (int)a[0], NULL, 0, 0)
    } else if (with_fake_ring && number == CKPTFMT_NR_IO_URING_ENTER && is_fake_ring((int)a[0])) {
        return as_errno(fake_ring_enter((int)a[0], (unsigned)a[1], (unsigned)a[2]));
    } else if (with_fake_ring && number == CKPTFMT_NR_IO_URING_REGISTER) {
        return as_errno(fake_ring_register((int)a[0], (unsigned)a[1], (void *)a[2]));
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
