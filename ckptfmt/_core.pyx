"""The engine: workers that carry out a read plan without the GIL.

The plan is known before the first byte is read, so the queue is a counter. Each worker owns its
ring, its slots and its stream; workers share the plan, two cursors and a failure latch. A loop that
runs without the GIL never raises: the first failure goes to the latch and the caller raises it once
all have stopped.
"""

cimport cython
from libc.errno cimport ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free

from ckptfmt._native.atomic cimport fetch_add, load_flag, set_flag
from ckptfmt._native.device cimport Fault
from ckptfmt._native.device_acl cimport acl_ops
from ckptfmt._native.device_cuda cimport cuda_enter, cuda_ops
from ckptfmt._native.direct cimport NO_MORE, begin, complete, give_back
from ckptfmt._native.gds cimport CuFile as CCuFile, gds_read
from ckptfmt._native.io cimport IoOps
from ckptfmt._native.io_pread cimport pread_ops
from ckptfmt._native.io_uring cimport uring_ops, uring_probe
from ckptfmt._native.landing cimport read_buffered
from ckptfmt._native.memory cimport Memory as CMemory
from ckptfmt._native.run cimport (
    CHECKSUM, DEVICE, FILE_ENDED, READ_FAILED, Block, Copy, Event, ReadOp, Run, fail,
    fail_device,
)
from ckptfmt._native.staging cimport lane_close, lane_open, send, slot_address, take_back
from ckptfmt._native.worker cimport Slot, Worker

from ckptfmt._native.acl_control import Acl, acl_has
from ckptfmt._native.acl_symbols import open_acl
from ckptfmt._native.checksum import crc32c, crc32c_combine, crc32c_implementation
from ckptfmt._native.cuda_control import Cudart
from ckptfmt._native.cuda_symbols import open_cuda
from ckptfmt._native.dlpack import capsule
from ckptfmt._native.files import (
    cached_nbytes, dio_alignment, fallocate, pread_into, rename_exchange, resident_nbytes,
)
from ckptfmt._native.gds import CuFile, open_cufile
from ckptfmt._native.memory import Memory, Region, advise_huge_pages

__all__ = [
    "Acl", "CuFile", "Cudart", "Engine", "Memory", "Region", "acl_has", "advise_huge_pages",
    "cached_nbytes", "capsule", "crc32c", "crc32c_combine", "crc32c_implementation",
    "dio_alignment", "fallocate", "io_uring_errno", "open_acl", "open_cuda", "open_cufile",
    "pread_into", "rename_exchange", "resident_nbytes",
]

# For `ckptfmt doctor`, which reads it in the file: a stale build cannot always be imported.
cdef extern from *:
    """
    __attribute__((used)) static const char ckptfmt_built_for[] =
        "ckptfmt._core built for " CKPTFMT_VERSION;
    """


cdef char *buffered_address(Run *run, Worker *w, int64_t i, unsigned s) noexcept nogil:
    """Where a buffered read of op `i` goes."""
    if run.device != NULL:
        return slot_address(run, &w.lane, s)
    if w.scratch != NULL and not run.bounced:
        return w.scratch + run.depth * run.slot_nbytes
    return <char *><uintptr_t>run.ops[i].address


cdef bint read_next_buffered(Run *run, Worker *w, int64_t i) noexcept nogil:
    """Carry out one buffered op; on its way to a device it takes a slot, else none."""
    cdef unsigned s = 0
    cdef bint there
    if run.device == NULL:
        return read_buffered(run, w.number, i, buffered_address(run, w, i, s), 0)
    w.n_idle -= 1
    s = w.idle[w.n_idle]
    there = read_buffered(run, w.number, i, buffered_address(run, w, i, s), 0)
    if not there or not send(run, &w.lane, s, i, False):
        give_back(w, s)
    return there


cdef void take_slots_back(Run *run, Worker *w, bint block) noexcept nogil:
    """Collect the slots whose copies have landed; with `block` wait for the oldest."""
    cdef unsigned s = 0
    while run.device != NULL and take_back(run, &w.lane, block, &s):
        give_back(w, s)
        block = False


cdef void work(Run *run, Worker *w) noexcept nogil:
    """One worker: `depth` direct reads in flight, others meanwhile, what lands is passed on."""
    cdef bint direct_left = True, buffered_left = True, busy
    cdef unsigned s
    cdef int64_t i
    for s in range(run.n_slots):
        give_back(w, s)
    while True:
        take_slots_back(run, w, False)
        while direct_left and w.n_idle and w.in_flight < run.depth and not load_flag(&run.stop):
            direct_left = begin(run, w) != NO_MORE
        busy = False
        if load_flag(&run.stop):
            direct_left = buffered_left = False
        elif buffered_left and (run.device == NULL or w.n_idle):
            i = run.n_direct + fetch_add(&run.next_buffered, 1)
            buffered_left = busy = i < run.n_ops
            if busy:
                read_next_buffered(run, w, i)
        while w.in_flight:
            if complete(run, w, not busy):
                break
            if run.undrained:
                return
            if busy:
                break                        # nothing has landed: on with the buffered ones
        if w.in_flight or busy:
            continue
        if w.lane.count:
            take_slots_back(run, w, True)    # nothing to do but wait for the device
        elif not direct_left and not buffered_left:
            return                           # plan done, or stopped and drained


cdef void run_worker(Run *run, const IoOps *table) noexcept nogil:
    """Open what a worker owns, work, close it. Without its ring a worker goes on with pread."""
    cdef Worker w
    cdef Fault fault
    cdef int code
    w.number = <int>fetch_add(&run.next_worker, 1)
    w.table = table
    w.io = NULL
    w.n_idle = w.in_flight = 0
    w.lane.count = 0
    w.slots = <Slot *>calloc(run.n_slots, sizeof(Slot) + sizeof(unsigned))
    w.idle = <unsigned *>(w.slots + run.n_slots)
    w.scratch = NULL
    if run.scratch != NULL and run.device == NULL:
        w.scratch = run.scratch + <size_t>w.number * (run.depth + 1) * run.slot_nbytes
    code = table.open(&w.io, run.depth) if w.slots != NULL else ENOMEM
    if code != 0 and w.slots != NULL and table != pread_ops():
        run.ring_errno = code
        fetch_add(&run.without_ring, 1)
        w.table = pread_ops()
        code = w.table.open(&w.io, run.depth)
    if code != 0:
        fail(run, READ_FAILED, 0, code, 0)
    else:
        if run.read_there != NULL and cuda_enter(run.device_number, &fault) != 0:
            fail_device(run, 0, &fault)
        elif run.device == NULL:
            work(run, &w)
        elif lane_open(run, &w.lane, w.number):
            work(run, &w)
            lane_close(run, &w.lane)
        if w.in_flight == 0:
            w.table.close(w.io)
    free(w.slots)


def io_uring_errno():
    return uring_probe()


@cython.final
cdef class Engine:
    cdef Run run
    cdef CMemory scratch
    cdef object known_files
    cdef const unsigned char[::1] ops, blocks, direct_fds, buffered_fds, copies, copy_begins
    cdef const unsigned char[::1] drop_behind
    cdef unsigned char[::1] found, dirty, events
    cdef readonly str io
    cdef readonly int workers

    def __init__(self, ops, blocks, direct_fds, buffered_fds, *, n_direct, io, depth, workers,
                 verify, found=None, dirty=None, slot_nbytes=0, bounced=False, drop_behind=None,
                 events=None):
        cdef Run *run = &self.run
        if io not in ("io_uring", "pread"):
            raise ValueError(f"io is 'io_uring' or 'pread', not {io!r}")
        self.io = io
        self.workers = workers
        self.ops, self.blocks = ops, blocks
        self.direct_fds, self.buffered_fds = direct_fds, buffered_fds
        # A read by pread is over when `submit` returns; more than one slot would only hold it back.
        run.depth = run.n_slots = depth if io == "io_uring" else 1
        run.n_ops = self.ops.shape[0] // <Py_ssize_t>sizeof(ReadOp)
        run.n_direct = n_direct
        run.ops = <const ReadOp *>&self.ops[0] if run.n_ops else NULL
        run.blocks = <const Block *>&self.blocks[0] if self.blocks.shape[0] else NULL
        run.direct_fds = <const int32_t *>&self.direct_fds[0]
        run.buffered_fds = <const int32_t *>&self.buffered_fds[0]
        run.verify = verify
        if drop_behind is not None:
            self.drop_behind = drop_behind
            run.drop_behind = &self.drop_behind[0]
        run.slot_nbytes = slot_nbytes
        if events is not None:
            self.events = events
            run.events = <Event *>&self.events[0]
            run.n_events = self.events.shape[0] // <Py_ssize_t>sizeof(Event)
        if found is not None:
            self.found, self.dirty = found, dirty
            run.found = <uint32_t *>&self.found[0]
            run.dirty = &self.dirty[0]
        run.bounced = bounced
        if found is not None or bounced:
            self.scratch = CMemory(<size_t>slot_nbytes * (run.depth + 1) * workers)
            run.scratch = self.scratch.base

    def send_to(self, kind, device, copies, copy_begins, *, n_slots, pool, bounce=0, after=0,
                copy_now=False):
        cdef Run *run = &self.run
        self.copies, self.copy_begins = copies, copy_begins
        run.copies = <const Copy *>&self.copies[0]
        run.copy_begins = <const int64_t *>&self.copy_begins[0]
        if kind not in ("npu", "cuda"):
            raise ValueError(f"kind is 'npu' or 'cuda', not {kind!r}")
        run.device = acl_ops() if kind == "npu" else cuda_ops()
        run.device_number = device
        if n_slots < run.depth:
            raise ValueError(f"{n_slots} slots for {run.depth} reads in flight")
        run.n_slots = n_slots
        run.scratch = <char *><uintptr_t>pool
        run.bounce = <char *><uintptr_t>bounce
        run.after = <void *><uintptr_t>after
        run.copy_now = copy_now

    def read_there(self, device, files):
        cdef CCuFile known = files
        self.known_files = known
        self.run.device_number = device
        self.run.handles = known.handles
        self.run.read_there = gds_read

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
        kind = {READ_FAILED: "read", FILE_ENDED: "end", CHECKSUM: "checksum", DEVICE: "device"}
        return kind[run.kind], run.failed_op, run.code & 0xffffffff, run.failed_block

    @property
    def device_fault(self):
        call = self.run.fault.call if self.run.fault.call != NULL else b""
        return call.decode(), self.run.fault.code, self.run.fault.message.decode(errors="replace")

    @property
    def release_fault(self):
        cdef const Fault *fault = &self.run.release_fault
        if not load_flag(&self.run.unreleased):
            return None
        return fault.call.decode(), fault.code, fault.message.decode(errors="replace")

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
            "device_wait": self.run.device_wait_ns / 1e9,
        }

    @property
    def n_events(self):
        return min(self.run.next_event, self.run.n_events)
