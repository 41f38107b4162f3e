"""The pread table: the calling thread reads; the disk's queue is as deep as there are threads."""

from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdlib cimport calloc, free
from posix.unistd cimport pread

from ckptfmt._native.io cimport IoOps


cdef struct Done:
    unsigned slot
    long long result

cdef struct PreadIo:
    unsigned depth, head, count      # a ring of results that nobody has taken yet
    Done *done


cdef long long pread_retry(int fd, char *address, size_t nbytes, long long offset) noexcept nogil:
    """One pread, again if a signal came first: bytes read, or a negative errno."""
    cdef ssize_t got
    while True:
        got = pread(fd, address, nbytes, offset)
        if got >= 0:
            return got
        if errno != EINTR:
            return -errno


cdef int pread_open(void **io, unsigned depth) noexcept nogil:
    cdef PreadIo *self = <PreadIo *>calloc(1, sizeof(PreadIo) + depth * sizeof(Done))
    if self == NULL:
        return ENOMEM
    self.depth = depth
    self.done = <Done *>(self + 1)
    io[0] = self
    return 0


cdef int pread_submit(void *io, unsigned slot, int fd, void *address, size_t nbytes,
                      long long offset) noexcept nogil:
    cdef PreadIo *self = <PreadIo *>io
    cdef Done *done = &self.done[(self.head + self.count) % self.depth]
    done.slot = slot
    done.result = pread_retry(fd, <char *>address, nbytes, offset)
    self.count += 1
    return 0


cdef int pread_wait(void *io, bint block, unsigned *slot, long long *result) noexcept nogil:
    cdef PreadIo *self = <PreadIo *>io
    if self.count == 0:
        return EAGAIN
    slot[0] = self.done[self.head].slot
    result[0] = self.done[self.head].result
    self.head = (self.head + 1) % self.depth
    self.count -= 1
    return 0


cdef void pread_close(void *io) noexcept nogil:
    free(io)


cdef IoOps OPS
OPS.name = b"pread"
OPS.open = pread_open
OPS.submit = pread_submit
OPS.wait = pread_wait
OPS.close = pread_close


cdef const IoOps *pread_ops() noexcept nogil:
    return &OPS
