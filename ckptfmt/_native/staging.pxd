from libc.stdint cimport int64_t

from ckptfmt._native.run cimport Run

cdef struct Lane:             # how one worker's slots travel to the device
    void *queue               # its stream and events
    int worker
    char *pool                # `n_slots` of the pool
    char *bounce              # as many that direct reads go to, or NULL
    unsigned *travelling      # ring of slots whose copies are queued, the oldest first
    long long *since          # when each of them was queued, and
    int64_t *op               # what is in it
    unsigned head, count

cdef bint lane_open(Run *run, Lane *lane, int worker) noexcept nogil
cdef void lane_close(Run *run, Lane *lane) noexcept nogil
cdef char *direct_address(Run *run, Lane *lane, unsigned slot) noexcept nogil
cdef char *slot_address(Run *run, Lane *lane, unsigned slot) noexcept nogil
cdef bint send(Run *run, Lane *lane, unsigned slot, int64_t op, bint from_bounce) noexcept nogil
cdef bint take_back(Run *run, Lane *lane, bint block, unsigned *slot) noexcept nogil
