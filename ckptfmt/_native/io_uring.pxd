from ckptfmt._native.io cimport IoOps

cdef const IoOps *uring_ops() noexcept nogil
cdef int uring_probe() noexcept nogil
