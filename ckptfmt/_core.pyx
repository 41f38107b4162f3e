"""The engine: workers that carry out a read plan without the GIL.

The plan is known before the first byte is read, so the queue is a counter. Each worker owns its
ring and its slots; workers share the plan, two cursors and a failure latch. A loop that runs
without the GIL never raises: the first failure goes to the latch and the caller raises it once all
have stopped.
"""

cimport cython
from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free

from ckptfmt._native.atomic cimport fetch_add, load_flag, set_flag
from ckptfmt._native.io cimport IoOps
from ckptfmt._native.io_pread cimport pread_ops
from ckptfmt._native.io_uring cimport uring_ops, uring_probe
from ckptfmt._native.landing cimport check_blocks, read_buffered
from ckptfmt._native.memory cimport Memory as CMemory
from ckptfmt._native.run cimport (
    CHECKSUM, FILE_ENDED, READ_FAILED, Block, ReadOp, Run, fail, now_ns,
)

from ckptfmt._native.checksum import crc32c, crc32c_combine, crc32c_implementation
from ckptfmt._native.files import (
    cached_nbytes, dio_alignment, fallocate, pread_into, rename_exchange, resident_nbytes,
)
from ckptfmt._native.memory import Memory, Region

__all__ = [
    "Engine", "Memory", "Region", "cached_nbytes", "crc32c", "crc32c_combine",
    "crc32c_implementation", "dio_alignment", "fallocate", "io_uring_errno", "pread_into",
    "rename_exchange", "resident_nbytes",
]

cdef enum:
    SECTOR = 4096             # what direct reads are rounded to

cdef struct Slot:
    int64_t op
    size_t goal               # what the direct read should bring
    size_t filled
    char *address

cdef struct Worker:            # what one thread owns
    const IoOps *table
    void *io
    Slot *slots
    unsigned *idle            # stack of free slots
    char *scratch             # `depth` + 1 slots of it in a scan, the last for buffered reads

cdef enum State:
    FILLED, READ_ON, READ_REST, FAILED


cdef State settle(Slot *slot, const ReadOp *op, long long result) noexcept nogil:
    """What one completion of a direct read means; both I/O tables come here.

    A short read goes on from its last whole sector. One that brings less than a sector, or the end
    of the file, leaves the rest to buffered reads, which know no alignment and report the true end;
    so does one that must not wait and would have to, for it might never be ready.
    """
    cdef size_t before = slot.filled
    if result == -EINTR:
        return READ_ON
    if result == -EAGAIN:
        return READ_REST
    if result < 0:
        return FAILED
    slot.filled += <size_t>result
    if slot.filled >= <size_t>op.nbytes:
        return FILLED
    if slot.filled >= slot.goal:
        return READ_REST
    slot.filled -= slot.filled % SECTOR
    return READ_ON if slot.filled > before else READ_REST


cdef int submit(Run *run, Worker *w, unsigned s) noexcept nogil:
    cdef Slot *slot = &w.slots[s]
    cdef const ReadOp *op = &run.ops[slot.op]
    cdef long long began = now_ns()
    cdef int code = w.table.submit(w.io, s, run.direct_fds[op.file], slot.address + slot.filled,
                                   slot.goal - slot.filled, op.offset + <long long>slot.filled)
    fetch_add(&run.wait_ns, now_ns() - began)
    return code


cdef char *address_of(Run *run, Worker *w, int64_t i, unsigned s) noexcept nogil:
    """Where op `i` lands: its final memory, or in a scan this worker's slot."""
    if w.scratch != NULL:
        return w.scratch + s * run.slot_nbytes
    return <char *><uintptr_t>run.ops[i].address


cdef size_t direct_goal(const ReadOp *op) noexcept nogil:
    """Whole sectors: rounded up where there is room for it, else down and the rest is buffered."""
    cdef size_t up = (<size_t>op.nbytes + SECTOR - 1) // SECTOR * SECTOR
    return up if up <= <size_t>op.room else <size_t>op.nbytes // SECTOR * SECTOR


cdef void land(Run *run, Slot *slot) noexcept nogil:
    """All of an op's bytes are there: verify them."""
    cdef const ReadOp *op = &run.ops[slot.op]
    if run.verify and check_blocks(run, slot.op, slot.address, op.first_block, slot.filled) < 0:
        return
    fetch_add(&run.done_nbytes, op.nbytes)


cdef enum Begun:
    NO_MORE, DONE_ALREADY, IN_FLIGHT, REFUSED


cdef Begun begin(Run *run, Worker *w, unsigned s) noexcept nogil:
    """Start the next direct read in slot `s`."""
    cdef int64_t i = fetch_add(&run.next_direct, 1)
    cdef Slot *slot = &w.slots[s]
    cdef int code
    if i >= run.n_direct:
        return NO_MORE
    slot.op = i
    slot.filled = 0
    slot.goal = direct_goal(&run.ops[i])
    slot.address = address_of(run, w, i, s)
    if slot.goal == 0:                       # less than a sector, and no room for one
        read_buffered(run, i, slot.address, 0)
        return DONE_ALREADY
    code = submit(run, w, s)
    if code == EAGAIN or code == EBUSY:      # the kernel is short of memory for requests
        read_buffered(run, i, slot.address, 0)
        return DONE_ALREADY
    if code != 0:
        fail(run, READ_FAILED, i, code, 0)
        return REFUSED
    return IN_FLIGHT


cdef bint complete(Run *run, Worker *w, bint block, unsigned *freed) noexcept nogil:
    """Take one completion; true if its slot is free again."""
    cdef unsigned s = 0
    cdef long long result = 0
    cdef long long began = now_ns()
    cdef int code = w.table.wait(w.io, block, &s, &result)
    cdef Slot *slot = &w.slots[s]
    cdef State state
    fetch_add(&run.wait_ns, now_ns() - began)
    if code != 0:
        if code != EAGAIN:
            # The ring cannot be waited on: what is in flight may still write, so nothing is freed.
            run.undrained = True
            fail(run, READ_FAILED, slot.op, code, 0)
        return False
    freed[0] = s
    state = settle(slot, &run.ops[slot.op], result)
    if state == READ_ON and not load_flag(&run.stop):
        code = submit(run, w, s)
        if code == 0:
            return False
        if code == EAGAIN or code == EBUSY:  # as in `begin`
            read_buffered(run, slot.op, slot.address, slot.filled)
        else:
            fail(run, READ_FAILED, slot.op, code, 0)
    elif state == READ_REST:
        read_buffered(run, slot.op, slot.address, slot.filled)
    elif state == FILLED:
        land(run, slot)
    elif state == FAILED:
        fail(run, READ_FAILED, slot.op, <int>-result, 0)
    return True


cdef void work(Run *run, Worker *w) noexcept nogil:
    """One worker: keep `depth` direct reads in flight, read others meanwhile, verify what lands."""
    cdef unsigned n_idle = run.depth, in_flight = 0, s, freed = 0
    cdef bint direct_left = True
    cdef int64_t i
    cdef Begun begun
    for s in range(run.depth):
        w.idle[s] = s
    while True:
        while direct_left and n_idle and not load_flag(&run.stop):
            begun = begin(run, w, w.idle[n_idle - 1])
            direct_left = begun != NO_MORE
            if begun == IN_FLIGHT:
                n_idle -= 1
                in_flight += 1
        i = run.n_ops
        if not load_flag(&run.stop):
            i = run.n_direct + fetch_add(&run.next_buffered, 1)
        if i < run.n_ops:
            read_buffered(run, i, address_of(run, w, i, run.depth), 0)
        elif in_flight == 0:
            return                                   # plan done, or stopped and drained
        while in_flight:
            if complete(run, w, i >= run.n_ops, &freed):
                w.idle[n_idle] = freed
                n_idle += 1
                in_flight -= 1
                break
            if run.undrained:
                return
            if i < run.n_ops:
                break                                # nothing has landed: on with the buffered ones


cdef void run_worker(Run *run, const IoOps *table) noexcept nogil:
    """Open what a worker owns, work, close it. Without its ring a worker goes on with pread."""
    cdef Worker w
    cdef int code
    w.table = table
    w.io = NULL
    w.slots = <Slot *>calloc(run.depth, sizeof(Slot) + sizeof(unsigned))
    w.idle = <unsigned *>(w.slots + run.depth)
    w.scratch = NULL
    if run.scratch != NULL:
        w.scratch = run.scratch
        w.scratch += fetch_add(&run.next_scratch, 1) * (run.depth + 1) * run.slot_nbytes
    code = table.open(&w.io, run.depth) if w.slots != NULL else ENOMEM
    if code != 0 and w.slots != NULL and table != pread_ops():
        run.ring_errno = code
        fetch_add(&run.without_ring, 1)
        w.table = pread_ops()
        code = w.table.open(&w.io, run.depth)
    if code != 0:
        fail(run, READ_FAILED, 0, code, 0)
    else:
        work(run, &w)
        if not run.undrained:
            w.table.close(w.io)
    free(w.slots)


def io_uring_errno():
    return uring_probe()


@cython.final
cdef class Engine:
    cdef Run run
    cdef CMemory scratch
    cdef const unsigned char[::1] ops, blocks, direct_fds, buffered_fds
    cdef unsigned char[::1] found, dirty
    cdef readonly str io
    cdef readonly int workers

    def __init__(self, ops, blocks, direct_fds, buffered_fds, *, n_direct, io, depth, workers,
                 verify, found=None, dirty=None, slot_nbytes=0):
        cdef Run *run = &self.run
        if io not in ("io_uring", "pread"):
            raise ValueError(f"io is 'io_uring' or 'pread', not {io!r}")
        self.io = io
        self.workers = workers
        self.ops, self.blocks = ops, blocks
        self.direct_fds, self.buffered_fds = direct_fds, buffered_fds
        # A read by pread is over when `submit` returns; more than one slot would only hold it back.
        run.depth = depth if io == "io_uring" else 1
        run.n_ops = self.ops.shape[0] // <Py_ssize_t>sizeof(ReadOp)
        run.n_direct = n_direct
        run.ops = <const ReadOp *>&self.ops[0] if run.n_ops else NULL
        run.blocks = <const Block *>&self.blocks[0] if self.blocks.shape[0] else NULL
        run.direct_fds = <const int32_t *>&self.direct_fds[0]
        run.buffered_fds = <const int32_t *>&self.buffered_fds[0]
        run.verify = verify
        if found is not None:
            self.found, self.dirty = found, dirty
            run.found = <uint32_t *>&self.found[0]
            run.dirty = &self.dirty[0]
            run.slot_nbytes = slot_nbytes
            self.scratch = Memory(<size_t>slot_nbytes * (run.depth + 1) * workers)
            run.scratch = self.scratch.base

    def work(self):
        cdef const IoOps *table = uring_ops() if self.io == "io_uring" else pread_ops()
        with nogil:
            run_worker(&self.run, table)

    def stop(self):
        set_flag(&self.run.stop)

    @property
    def done_nbytes(self):
        return self.run.done_nbytes

    @property
    def failure(self):
        cdef Run *run = &self.run
        if not load_flag(&run.failed):
            return None
        kind = {READ_FAILED: "read", FILE_ENDED: "end", CHECKSUM: "checksum"}[run.kind]
        return kind, run.failed_op, run.code & 0xffffffff, run.failed_block

    @property
    def undrained(self):
        return self.run.undrained

    @property
    def scratch_nbytes(self):
        return self.scratch.nbytes if self.scratch is not None else 0

    @property
    def ring_errno(self):
        return self.run.ring_errno

    @property
    def without_ring(self):
        return self.run.without_ring

    @property
    def seconds(self):
        return {
            "disk_wait": self.run.wait_ns / 1e9,
            "buffered_read": self.run.buffered_ns / 1e9,
            "checksum": self.run.checksum_ns / 1e9,
        }
