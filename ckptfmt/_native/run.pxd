# A plan being carried out: its ops and blocks, and what the workers share.

from libc.stdint cimport int32_t, int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ckptfmt._native.atomic cimport fetch_add, latch, set_flag
from ckptfmt._native.device cimport DeviceOps, Fault

# How a failed op failed.
cdef enum Kind:
    READ_FAILED = 1
    FILE_ENDED = 2
    CHECKSUM = 3
    DEVICE = 4

# What a worker was doing; trace.KINDS.
cdef enum Doing:
    READING = 0
    READING_BUFFERED = 1
    SUMMING = 2
    COPYING = 3
    AWAITING_DISK = 4
    AWAITING_DEVICE = 5

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

cdef packed struct Copy:      # device_plan.COPY_DTYPE
    int64_t start             # from the op's first byte
    int64_t nbytes
    int64_t address           # on the device
    int64_t room              # bytes that may be written there

cdef packed struct Event:     # trace.TRACE_DTYPE
    int64_t begin             # ns of the monotonic clock
    int64_t end
    int64_t op
    int64_t nbytes
    int32_t kind
    int32_t worker

cdef struct Run:              # no lock: constants, counters, a flag and a latch
    const ReadOp *ops
    const Block *blocks
    const int32_t *direct_fds
    const int32_t *buffered_fds
    int64_t n_direct, n_ops
    uint32_t *found           # scan: the checksum of each block,
    unsigned char *dirty      # and whether other than zeros follow it
    char *scratch             # scan, `bounced`: memory of the workers; device: the pool of slots
    char *bounce              # device: where direct reads go if the pool cannot take them
    bint bounced              # direct reads for memory that starts on no sector land in `scratch`
    size_t slot_nbytes
    unsigned depth            # direct reads in flight for each worker
    unsigned n_slots          # of each worker, `depth` or more
    bint verify
    const unsigned char *drop_behind  # of which files nothing read is to stay in the page cache
    # Reads straight into a GPU's memory, as pread, with what each file is known by; or NULL.
    long long (*read_there)(void *handle, void *address, size_t nbytes,
                            long long offset) noexcept nogil
    void **handles
    const DeviceOps *device   # NULL: bytes stay where they were read to
    int device_number
    void *after               # what copies wait for
    bint copy_now             # one copy at a time, waited for
    const Copy *copies        # of op i: from copy_begins[i] up to copy_begins[i + 1]
    const int64_t *copy_begins
    Event *events             # a trace, or NULL
    int64_t n_events
    long long next_event
    long long next_direct, next_buffered, next_worker
    long long done_nbytes, wait_ns, checksum_ns, buffered_ns, device_wait_ns, copy_ns
    int stop, failing, failed  # somebody has failed; what it was has been written down
    int kind, code
    int64_t failed_op, failed_block
    Fault fault               # of the device
    int unreleased            # something of the device's could not be given back,
    Fault release_fault       # the first of it
    bint undrained            # reads or copies are in flight that cannot be waited for
    int ring_errno            # why a worker had to do without its ring
    long long without_ring    # how many had to


cdef inline long long now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <long long>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline void note(Run *run, int kind, int worker, int64_t op, int64_t nbytes,
                      long long begin) noexcept nogil:
    """Trace what has just ended. Beyond the room for events nothing is written."""
    cdef long long i
    if run.events == NULL:
        return
    i = fetch_add(&run.next_event, 1)
    if i < run.n_events:
        run.events[i].begin = begin
        run.events[i].end = now_ns()
        run.events[i].op = op
        run.events[i].nbytes = nbytes
        run.events[i].kind = kind
        run.events[i].worker = worker


cdef inline void fail(Run *run, int kind, int64_t op, int code, int64_t block) noexcept nogil:
    """Latch the first failure and have every worker stop."""
    if latch(&run.failing):
        run.kind = kind
        run.code = code
        run.failed_op = op
        run.failed_block = block
        set_flag(&run.failed)
    set_flag(&run.stop)


cdef inline void fail_device(Run *run, int64_t op, const Fault *fault) noexcept nogil:
    """The same for the device's own words."""
    if latch(&run.failing):
        run.kind = DEVICE
        run.fault = fault[0]
        run.code = fault.code
        run.failed_op = op
        set_flag(&run.failed)
    set_flag(&run.stop)


cdef inline void note_unreleased(Run *run, const Fault *fault) noexcept nogil:
    """What could not be given back is lost, but the bytes have arrived: no failure."""
    if latch(&run.unreleased):
        run.release_fault = fault[0]
