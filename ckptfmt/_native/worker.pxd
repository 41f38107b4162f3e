# What one thread of the engine owns.

from libc.stdint cimport int64_t

from ckptfmt._native.io cimport IoOps
from ckptfmt._native.staging cimport Lane

cdef struct Slot:
    int64_t op
    size_t goal               # what the direct read should bring
    size_t filled
    char *address
    long long since           # when the read began

cdef struct Worker:
    int number
    const IoOps *table
    void *io
    Slot *slots
    unsigned *idle            # stack of free slots
    unsigned n_idle
    unsigned in_flight        # direct reads
    char *scratch             # `depth` + 1 slots, the last for a scan's buffered reads; or NULL
    Lane lane                 # to the device, if there is one
