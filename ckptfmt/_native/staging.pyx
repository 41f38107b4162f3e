"""Slots on their way to a device: filled by reads, emptied by copies, then filled again.

A slot's memory may be written again when the event behind its copies has come. All of a worker's
copies go through one stream, so its slots come back in the order in which they left.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ckptfmt._native.atomic cimport fetch_add
from ckptfmt._native.device cimport Fault
from ckptfmt._native.run cimport (
    AWAITING_DEVICE, COPYING, READ_FAILED, Copy, Run, fail, fail_device, note, note_unreleased,
    now_ns,
)


cdef bint lane_open(Run *run, Lane *lane, int worker) noexcept nogil:
    """Make the stream and find this worker's share of the pool; false after a failure."""
    cdef Fault fault
    cdef size_t share = <size_t>worker * run.n_slots * run.slot_nbytes
    lane.queue = NULL
    lane.worker = worker
    lane.head = lane.count = 0
    lane.pool = run.scratch + share
    lane.bounce = run.bounce + share if run.bounce != NULL else NULL
    lane.since = <long long *>calloc(
        run.n_slots, sizeof(long long) + sizeof(int64_t) + sizeof(unsigned))
    if lane.since == NULL:
        fail(run, READ_FAILED, 0, ENOMEM, 0)
        return False
    lane.op = <int64_t *>(lane.since + run.n_slots)
    lane.travelling = <unsigned *>(lane.op + run.n_slots)
    if run.device.open(&lane.queue, run.device_number, run.after, run.n_slots, &fault) != 0:
        fail_device(run, 0, &fault)
        free(lane.since)
        return False
    return True


cdef void lane_close(Run *run, Lane *lane) noexcept nogil:
    """Wait for what is queued, then release. What cannot be waited for is never freed."""
    cdef Fault fault
    cdef bint drained
    if lane.queue != NULL:
        drained = run.device.drain(lane.queue, &fault) == 0
        if not drained:
            # Waiting tells of a copy that has failed, once; the next one tells whether all is over.
            fail_device(run, 0, &fault)
            drained = run.device.drain(lane.queue, &fault) == 0
        if not drained:
            run.undrained = True
        elif run.device.close(lane.queue, &fault) != 0:
            note_unreleased(run, &fault)
        lane.queue = NULL
    free(lane.since)
    lane.since = NULL


cdef char *direct_address(Run *run, Lane *lane, unsigned slot) noexcept nogil:
    """Where direct reads of a slot go."""
    return (lane.bounce if lane.bounce != NULL else lane.pool) + slot * run.slot_nbytes


cdef char *slot_address(Run *run, Lane *lane, unsigned slot) noexcept nogil:
    """Where copies of a slot come from; reads through the page cache may go there always."""
    return lane.pool + slot * run.slot_nbytes


cdef bint send(Run *run, Lane *lane, unsigned slot, int64_t op, bint from_bounce) noexcept nogil:
    """Queue the copies of an op that a slot holds; false if the slot is free again at once."""
    cdef char *base = slot_address(run, lane, slot)
    cdef const Copy *piece
    cdef int64_t i
    cdef int code
    cdef Fault fault
    cdef long long began, waited
    cdef unsigned last
    cdef uintptr_t ends
    if from_bounce and lane.bounce != NULL:
        memcpy(base, lane.bounce + slot * run.slot_nbytes, <size_t>run.ops[op].nbytes)
    began = now_ns()
    for i in range(run.copy_begins[op], run.copy_begins[op + 1]):
        piece = &run.copies[i]
        ends = <uintptr_t>piece.address | <uintptr_t>(base + piece.start)
        if run.copy_now or ends & (run.device.alignment - 1):
            waited = now_ns()
            code = run.device.copy_now(lane.queue, <void *><uintptr_t>piece.address,
                                       <size_t>piece.room, base + piece.start,
                                       <size_t>piece.nbytes, &fault)
            if not run.copy_now:
                fetch_add(&run.device_wait_ns, now_ns() - waited)
        else:
            code = run.device.copy(lane.queue, <void *><uintptr_t>piece.address,
                                   <size_t>piece.room, base + piece.start,
                                   <size_t>piece.nbytes, &fault)
        if code != 0:
            fail_device(run, op, &fault)
            break
    if run.copy_now:
        fetch_add(&run.device_wait_ns, now_ns() - began)
        note(run, COPYING, lane.worker, op, run.ops[op].nbytes, began)
        return False
    # Some of a failed op's copies may be queued: the slot is watched all the same.
    if run.device.record(lane.queue, slot, &fault) != 0:
        fail_device(run, op, &fault)
    last = (lane.head + lane.count) % run.n_slots
    lane.travelling[last] = slot
    lane.since[last] = began
    lane.op[last] = op
    lane.count += 1
    return True


cdef bint take_back(Run *run, Lane *lane, bint block, unsigned *slot) noexcept nogil:
    """Take the oldest slot back if its copies have landed, or once they have; true if so.

    After a failure nothing is asked any more: the slots stay away, and closing the lane waits.
    """
    cdef Fault fault
    cdef bint yes = False
    cdef unsigned oldest = lane.head
    cdef long long began
    if lane.count == 0:
        return False
    began = now_ns()
    if run.device.arrived(lane.queue, lane.travelling[oldest], block, &yes, &fault) != 0:
        fail_device(run, lane.op[oldest], &fault)
        lane.count = 0
        return False
    if block:
        fetch_add(&run.device_wait_ns, now_ns() - began)
        note(run, AWAITING_DEVICE, lane.worker, lane.op[oldest], 0, began)
    if not yes:
        return False
    slot[0] = lane.travelling[oldest]
    note(run, COPYING, lane.worker, lane.op[oldest], run.ops[lane.op[oldest]].nbytes,
         lane.since[oldest])
    lane.head = (oldest + 1) % run.n_slots
    lane.count -= 1
    return True
