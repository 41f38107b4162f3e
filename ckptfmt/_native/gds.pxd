cdef class CuFile:
    cdef void **handles
    cdef int n_handles

cdef long long gds_read(void *handle, void *address, size_t nbytes,
                        long long offset) noexcept nogil
