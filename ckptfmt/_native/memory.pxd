cdef class Memory:
    cdef char *base
    cdef readonly size_t nbytes
    cdef size_t mapped_nbytes
    cdef int owner_pid        # of memory that no child has, or 0
    cdef readonly bint huge_pages
    cdef int _map_file(self, size_t nbytes, int fd) noexcept nogil
    cdef int _map_hugetlb(self, size_t nbytes) noexcept nogil
    cdef int _map_anonymous(self, size_t nbytes) noexcept nogil

cdef class Region:
    cdef Memory memory
    cdef char *ptr
    cdef Py_ssize_t c_nbytes
    cdef size_t span
