# One table of read functions; io_uring and pread each fill one, and one loop serves both.
#
# A worker owns what `open` gives and calls the rest from its own thread. `submit` may finish the
# read at once (pread does); its result is handed out by `wait` all the same. Functions return 0 or
# an errno.

cdef struct IoOps:
    const char *name
    int (*open)(void **io, unsigned depth) noexcept nogil
    # Read `nbytes` at `offset` of `fd` into `address`; at most `depth` reads are in flight.
    int (*submit)(void *io, unsigned slot, int fd, void *address, size_t nbytes,
                  long long offset) noexcept nogil
    # Take one result: bytes read, or a negative errno. EAGAIN: none yet, and not asked to block.
    int (*wait)(void *io, bint block, unsigned *slot, long long *result) noexcept nogil
    # Only when nothing is in flight.
    void (*close)(void *io) noexcept nogil
