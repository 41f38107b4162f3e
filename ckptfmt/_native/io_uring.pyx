"""The io_uring table, by raw system calls: no liburing at build or run time.

One thread fills the submission ring and empties the completion ring, so its own ends of both need
no atomics; the kernel's ends are read with acquire and published with release (io_uring(7)).
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOMEM, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from ckptfmt._native.atomic cimport load_acquire, store_release
from ckptfmt._native.io cimport IoOps

cdef extern from "syscalls.h" nogil:
    cdef struct Sqe "ckptfmt_sqe":
        uint8_t opcode
        int fd
        uint64_t off, addr
        uint32_t len
        uint64_t user_data

    cdef struct Cqe "ckptfmt_cqe":
        uint64_t user_data
        int res

    cdef struct SqOffsets "":
        uint32_t head, tail, ring_mask, array

    cdef struct CqOffsets "":
        uint32_t head, tail, ring_mask, cqes

    cdef struct Params "ckptfmt_uring_params":
        uint32_t sq_entries, cq_entries, features
        SqOffsets sq_off
        CqOffsets cq_off

    cdef struct ProbeOp "":
        unsigned short flags

    cdef struct Probe "ckptfmt_uring_probe":
        uint8_t last_op
        ProbeOp ops[64]

    enum:
        OP_READ "CKPTFMT_OP_READ"
        OP_SUPPORTED "CKPTFMT_OP_SUPPORTED"
        ENTER_GETEVENTS "CKPTFMT_ENTER_GETEVENTS"
        FEAT_SINGLE_MMAP "CKPTFMT_FEAT_SINGLE_MMAP"
    uint64_t OFF_SQ_RING "CKPTFMT_OFF_SQ_RING"
    uint64_t OFF_SQES "CKPTFMT_OFF_SQES"

    int uring_setup "ckptfmt_uring_setup"(unsigned entries, Params *params)
    int uring_enter "ckptfmt_uring_enter"(int ring, unsigned submit, unsigned wait, unsigned flags)
    int uring_probe_ops "ckptfmt_uring_probe_ops"(int ring, Probe *probe)


cdef struct Ring:
    int fd
    void *rings              # both rings: one mapping since Linux 5.4
    size_t rings_nbytes
    Sqe *sqes
    size_t sqes_nbytes
    unsigned *sq_tail
    unsigned *sq_array
    unsigned sq_mask
    unsigned *cq_head
    unsigned *cq_tail
    unsigned cq_mask
    Cqe *cqes


cdef int ring_map(Ring *self, Params *params) noexcept nogil:
    cdef size_t sq_nbytes = params.sq_off.array + params.sq_entries * sizeof(unsigned)
    cdef size_t cq_nbytes = params.cq_off.cqes + params.cq_entries * sizeof(Cqe)
    if not params.features & FEAT_SINGLE_MMAP:
        return EOPNOTSUPP
    self.rings_nbytes = max(sq_nbytes, cq_nbytes)
    self.rings = mmap(NULL, self.rings_nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      self.fd, <long long>OFF_SQ_RING)
    if self.rings == MAP_FAILED:
        self.rings = NULL
        return errno
    self.sqes_nbytes = params.sq_entries * sizeof(Sqe)
    self.sqes = <Sqe *>mmap(NULL, self.sqes_nbytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_POPULATE, self.fd, <long long>OFF_SQES)
    if <void *>self.sqes == MAP_FAILED:
        self.sqes = NULL
        return errno
    cdef char *base = <char *>self.rings
    self.sq_tail = <unsigned *>(base + params.sq_off.tail)
    self.sq_array = <unsigned *>(base + params.sq_off.array)
    self.sq_mask = (<unsigned *>(base + params.sq_off.ring_mask))[0]
    self.cq_head = <unsigned *>(base + params.cq_off.head)
    self.cq_tail = <unsigned *>(base + params.cq_off.tail)
    self.cq_mask = (<unsigned *>(base + params.cq_off.ring_mask))[0]
    self.cqes = <Cqe *>(base + params.cq_off.cqes)
    return 0


cdef void ring_close(void *io) noexcept nogil:
    cdef Ring *self = <Ring *>io
    if self.sqes != NULL:
        munmap(self.sqes, self.sqes_nbytes)
    if self.rings != NULL:
        munmap(self.rings, self.rings_nbytes)
    close(self.fd)
    free(self)


cdef int ring_open(void **io, unsigned depth) noexcept nogil:
    cdef Params params
    cdef int code
    cdef Ring *self = <Ring *>calloc(1, sizeof(Ring))
    if self == NULL:
        return ENOMEM
    memset(&params, 0, sizeof(Params))
    self.fd = uring_setup(depth, &params)
    if self.fd < 0:
        code = errno
        free(self)
        return code
    code = ring_map(self, &params)
    if code != 0:
        ring_close(self)
        return code
    io[0] = self
    return 0


cdef int ring_enter(Ring *self, unsigned submit, unsigned wait) noexcept nogil:
    """Hand over `submit` entries, wait for `wait` results; after a signal, again."""
    cdef int code
    while True:
        code = uring_enter(self.fd, submit, wait, ENTER_GETEVENTS if wait else 0)
        if code >= 0:
            return EAGAIN if code < <int>submit else 0
        code = errno
        if code == EINTR:
            continue
        return code


cdef int ring_submit(void *io, unsigned slot, int fd, void *address, size_t nbytes,
                     long long offset) noexcept nogil:
    cdef Ring *self = <Ring *>io
    cdef unsigned tail = self.sq_tail[0]
    cdef unsigned index = tail & self.sq_mask
    cdef Sqe *sqe = &self.sqes[index]
    cdef int code
    memset(sqe, 0, sizeof(Sqe))
    sqe.opcode = OP_READ
    sqe.fd = fd
    sqe.off = <uint64_t>offset
    sqe.addr = <uint64_t><size_t>address
    sqe.len = <uint32_t>nbytes
    sqe.user_data = slot
    self.sq_array[index] = index
    store_release(self.sq_tail, tail + 1)
    code = ring_enter(self, 1, 0)
    if code != 0:
        store_release(self.sq_tail, tail)        # not taken: take it back, nothing is in flight
    return code


cdef int ring_wait(void *io, bint block, unsigned *slot, long long *result) noexcept nogil:
    cdef Ring *self = <Ring *>io
    cdef unsigned head = self.cq_head[0]
    cdef Cqe *cqe
    cdef int code
    while head == load_acquire(self.cq_tail):
        if not block:
            return EAGAIN
        code = ring_enter(self, 0, 1)
        if code != 0 and code != EAGAIN and code != EBUSY:
            return code
    cqe = &self.cqes[head & self.cq_mask]
    slot[0] = <unsigned>cqe.user_data
    result[0] = cqe.res
    store_release(self.cq_head, head + 1)
    return 0


cdef int uring_probe() noexcept nogil:
    """0 if this process may use io_uring and it can read; else the errno that says why not."""
    cdef void *io = NULL
    cdef Probe probe
    cdef int code = ring_open(&io, 1)
    if code != 0:
        return code
    if uring_probe_ops((<Ring *>io).fd, &probe) != 0:
        code = errno
    elif probe.last_op < OP_READ or not probe.ops[<int>OP_READ].flags & OP_SUPPORTED:
        code = EOPNOTSUPP
    else:
        code = ring_enter(<Ring *>io, 0, 0)      # a filter may permit the set-up and not this
    ring_close(io)
    return code


cdef IoOps OPS
OPS.name = b"io_uring"
OPS.open = ring_open
OPS.submit = ring_submit
OPS.wait = ring_wait
OPS.close = ring_close


cdef const IoOps *uring_ops() noexcept nogil:
    return &OPS
