from ckptfmt._native.io cimport IoOps

cdef const IoOps *pread_ops() noexcept nogil
cdef long long pread_retry(int fd, char *address, size_t nbytes, long long offset) noexcept nogil
