"""Direct reads of one worker: begun in a free slot, settled when they come back, then landed."""

from libc.errno cimport EAGAIN, EBUSY, EINTR
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy

from ckptfmt._native.atomic cimport fetch_add, load_flag
from ckptfmt._native.landing cimport check_blocks, place, read_buffered
from ckptfmt._native.run cimport (
    AWAITING_DISK, READ_FAILED, READING, ReadOp, Run, fail, note, now_ns,
)
from ckptfmt._native.staging cimport direct_address, send
from ckptfmt._native.worker cimport Slot, Worker

cdef enum:
    SECTOR = 4096             # what direct reads are rounded to

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
    """Where a direct read of op `i` goes: to its final memory, or to a slot of this worker."""
    if run.device != NULL:
        return direct_address(run, &w.lane, s)
    if w.scratch != NULL and (not run.bounced or run.ops[i].address % SECTOR != 0):
        return w.scratch + s * run.slot_nbytes
    return <char *><uintptr_t>run.ops[i].address


cdef size_t direct_goal(Run *run, const Slot *slot) noexcept nogil:
    """Whole sectors: rounded up where there is room for it, else down and the rest is buffered."""
    cdef const ReadOp *op = &run.ops[slot.op]
    cdef bint stays = slot.address == <char *><uintptr_t>op.address
    cdef size_t room = <size_t>op.room if stays else run.slot_nbytes
    cdef size_t up = (<size_t>op.nbytes + SECTOR - 1) // SECTOR * SECTOR
    return up if up <= room else <size_t>op.nbytes // SECTOR * SECTOR


cdef void give_back(Worker *w, unsigned slot) noexcept nogil:
    """A slot is free again."""
    w.idle[w.n_idle] = slot
    w.n_idle += 1


cdef bint bounced(Run *run, Slot *slot) noexcept nogil:
    """Whether a direct read went elsewhere than where its bytes stay."""
    return run.bounced and slot.address != <char *><uintptr_t>run.ops[slot.op].address


cdef void land(Run *run, Worker *w, unsigned s) noexcept nogil:
    """All of an op's bytes are there: verify them, and send them on if they have further to go."""
    cdef Slot *slot = &w.slots[s]
    cdef const ReadOp *op = &run.ops[slot.op]
    cdef bint there
    note(run, READING, w.number, slot.op, op.nbytes, slot.since)
    if bounced(run, slot):
        there = place(run, w.number, slot.op, slot.address)
    else:
        there = not run.verify or check_blocks(run, w.number, slot.op, slot.address,
                                               op.first_block, slot.filled) >= 0
    if there:
        fetch_add(&run.done_nbytes, op.nbytes)
        if run.device != NULL and send(run, &w.lane, s, slot.op, True):
            return
    give_back(w, s)


cdef void read_rest(Run *run, Worker *w, unsigned s, size_t filled) noexcept nogil:
    """What a direct read cannot bring, through the page cache; then as if it had landed."""
    cdef Slot *slot = &w.slots[s]
    cdef char *base = slot.address
    if bounced(run, slot):
        base = <char *><uintptr_t>run.ops[slot.op].address
        memcpy(base, slot.address, filled)
    if read_buffered(run, w.number, slot.op, base, filled):
        if run.device != NULL and send(run, &w.lane, s, slot.op, True):
            return
    give_back(w, s)


cdef Begun begin(Run *run, Worker *w) noexcept nogil:
    """Start the next direct read in a free slot."""
    cdef int64_t i = fetch_add(&run.next_direct, 1)
    cdef unsigned s
    cdef Slot *slot
    cdef int code
    if i >= run.n_direct:
        return NO_MORE
    w.n_idle -= 1
    s = w.idle[w.n_idle]
    slot = &w.slots[s]
    slot.op = i
    slot.filled = 0
    slot.address = address_of(run, w, i, s)
    slot.goal = direct_goal(run, slot)
    slot.since = now_ns()
    if slot.goal == 0:                       # less than a sector, and no room for one
        read_rest(run, w, s, 0)
        return DONE_ALREADY
    code = submit(run, w, s)
    if code == EAGAIN or code == EBUSY:      # the kernel is short of memory for requests
        read_rest(run, w, s, 0)
        return DONE_ALREADY
    if code != 0:
        fail(run, READ_FAILED, i, code, 0)
        give_back(w, s)
        return REFUSED
    w.in_flight += 1
    return IN_FLIGHT


cdef bint complete(Run *run, Worker *w, bint block) noexcept nogil:
    """Take one completion; true if that read is over."""
    cdef unsigned s = 0
    cdef long long result = 0
    cdef long long began = now_ns()
    cdef int code = w.table.wait(w.io, block, &s, &result)
    cdef Slot *slot = &w.slots[s]
    cdef State state
    fetch_add(&run.wait_ns, now_ns() - began)
    if block:
        note(run, AWAITING_DISK, w.number, slot.op, 0, began)
    if code != 0:
        if code != EAGAIN:
            # The ring cannot be waited on: what is in flight may still write, so nothing is freed.
            run.undrained = True
            fail(run, READ_FAILED, slot.op, code, 0)
        return False
    state = settle(slot, &run.ops[slot.op], result)
    if state == READ_ON and not load_flag(&run.stop):
        code = submit(run, w, s)
        if code == 0:
            return False
        if code == EAGAIN or code == EBUSY:  # as in `begin`
            state = READ_REST
        else:
            state = FAILED
            result = -code
    w.in_flight -= 1
    if state == READ_REST:
        read_rest(run, w, s, slot.filled)
    elif state == FILLED:
        land(run, w, s)
    else:
        if state == FAILED:
            fail(run, READ_FAILED, slot.op, <int>-result, 0)
        give_back(w, s)                      # or it has to stop half-way
    return True
