from libc.stdint cimport int64_t

from ckptfmt._native.run cimport Run

cdef int64_t check_blocks(Run *run, int worker, int64_t i, const char *base, int64_t block,
                          size_t filled) noexcept nogil
cdef bint place(Run *run, int worker, int64_t i, const char *base) noexcept nogil
cdef bint read_buffered(Run *run, int worker, int64_t i, char *base, size_t filled) noexcept nogil
