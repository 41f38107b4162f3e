/* What the wrappers of faulty_io.c and the ring of fake_ring.c share. */
#ifndef FAULTY_IO_H
#define FAULTY_IO_H

#include <stddef.h>
#include <sys/types.h>

enum { PASS, FAIL, SHORT, KILL };

struct verdict {
    int kind;
    long value;   /* FAIL: errno. SHORT: bytes at most. */
};

extern int with_fake_ring;

/* What is to happen to this call; holds, waits and writes the log as the rules say. A descriptor or
 * a path tells where it goes. */
struct verdict decide(const char *call, int fd, const char *path, long long offset, size_t nbytes);

/* pread as it really is, or as `verdict` has it: bytes, or a negative errno. */
long faulty_pread(int fd, void *address, size_t nbytes, long long offset, struct verdict verdict);

/* The C library's own system call function. */
long real_syscall(long number, ...);

/* io_uring in this process, without the kernel's: results as negative errnos. */
long fake_ring_setup(unsigned entries, void *params);
long fake_ring_enter(int fd, unsigned submit, unsigned wait);
long fake_ring_register(int fd, unsigned opcode, void *argument);
void fake_ring_closed(int fd);
int is_fake_ring(int fd);

#endif
