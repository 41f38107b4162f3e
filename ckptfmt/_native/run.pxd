# A plan being carried out: its ops and blocks, and what the workers share.

from libc.stdint cimport int32_t, int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ckptfmt._native.atomic cimport latch, set_flag

# How a failed op failed.
cdef enum Kind:
    READ_FAILED = 1
    FILE_ENDED = 2
    CHECKSUM = 3

cdef packed struct ReadOp:    # read_plan.OP_DTYPE
    int64_t offset            # in the file, a multiple of SECTOR for direct reads
    int64_t address           # where the bytes go
    int64_t nbytes            # bytes wanted
    int64_t room              # bytes that may be written at `address`
    int32_t file
    int32_t n_blocks
    int64_t first_block

cdef packed struct Block:     # read_plan.BLOCK_DTYPE
    int64_t start             # from the op's first byte
    uint32_t nbytes
    uint32_t crc

cdef struct Run:              # no lock: constants, counters, a flag and a latch
    const ReadOp *ops
    const Block *blocks
    const int32_t *direct_fds
    const int32_t *buffered_fds
    int64_t n_direct, n_ops
    uint32_t *found           # scan: the checksum of each block,
    unsigned char *dirty      # and whether other than zeros follow it
    char *scratch
    size_t slot_nbytes
    unsigned depth
    bint verify
    long long next_direct, next_buffered, next_scratch
    long long done_nbytes, wait_ns, checksum_ns, buffered_ns
    int stop, failed
    int kind, code
    int64_t failed_op, failed_block
    bint undrained
    int ring_errno            # why a worker had to do without its ring
    long long without_ring    # how many had to


cdef inline long long now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <long long>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline void fail(Run *run, int kind, int64_t op, int code, int64_t block) noexcept nogil:
    """Latch the first failure and have every worker stop."""
    if latch(&run.failed):
        run.kind = kind
        run.code = code
        run.failed_op = op
        run.failed_block = block
    set_flag(&run.stop)
