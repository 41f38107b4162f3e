"""Memory that tensors live in: one mapping for a load, and a region of it for each tensor."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EINVAL, ENOMEM, errno
from libc.stdint cimport uintptr_t
from libc.string cimport memset
from posix.mman cimport (
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE,
    madvise, mlock, mmap, munmap,
)
from posix.unistd cimport _SC_PAGESIZE, getpid, sysconf

import os

cdef extern from "<sys/mman.h>" nogil:
    int MADV_DONTFORK
    int MADV_HUGEPAGE
    int MAP_HUGETLB

cdef enum:
    HUGE = 2 << 20            # size of a huge page with 4 KiB base pages
    MAP_HUGE_2MB = 21 << 26   # that size, whatever the system's default is
    MADV_POPULATE_WRITE = 23  # Linux 5.14

cdef size_t PAGE = <size_t>sysconf(_SC_PAGESIZE)


@cython.final
cdef class Memory:
    def __init__(self, nbytes, *, fd=-1, hugetlb=False):
        cdef size_t c_nbytes = nbytes
        cdef int c_fd = fd
        cdef int code = 0
        cdef bint c_hugetlb = hugetlb
        if self.base != NULL:
            raise RuntimeError("a Memory is mapped once")
        if c_nbytes == 0:
            raise ValueError("a mapping needs at least one byte")
        with nogil:
            if c_fd >= 0:
                code = self._map_file(c_nbytes, c_fd)
            elif not c_hugetlb or self._map_hugetlb(c_nbytes) != 0:
                code = self._map_anonymous(c_nbytes)
        if code != 0:
            raise MemoryError(f"cannot map {nbytes} bytes: {os.strerror(code)}")

    cdef int _map_file(self, size_t nbytes, int fd) noexcept nogil:
        # Private and writable: a tensor may be changed, the file never is. NORESERVE: the copies
        # that a model's every page might need are not counted against the machine's memory.
        cdef void *base = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                               fd, 0)
        if base == MAP_FAILED:
            return errno
        self.base = <char *>base
        self.nbytes = nbytes
        self.mapped_nbytes = nbytes
        return 0

    cdef int _map_hugetlb(self, size_t nbytes) noexcept nogil:
        """Pages that an administrator set aside; mapping reserves them, so touching cannot fail."""
        cdef void *base
        if nbytes % HUGE != 0:
            return EINVAL
        base = mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0)
        if base == MAP_FAILED:
            return errno
        self.base = <char *>base
        self.nbytes = nbytes
        self.mapped_nbytes = nbytes
        self.huge_pages = True
        return 0

    cdef int _map_anonymous(self, size_t nbytes) noexcept nogil:
        """Huge pages only cover whole, aligned 2 MiB: ask for a start that is."""
        cdef size_t align = HUGE if nbytes >= HUGE else PAGE
        cdef size_t total = nbytes + align - PAGE
        if total < nbytes:
            return ENOMEM
        cdef void *raw = mmap(NULL, total, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if raw == MAP_FAILED:
            return errno
        cdef uintptr_t start = (<uintptr_t>raw + align - 1) & ~<uintptr_t>(align - 1)
        cdef size_t head = start - <uintptr_t>raw
        cdef size_t used = (nbytes + PAGE - 1) & ~(PAGE - 1)
        if head:
            munmap(raw, head)
        if total - head > used:
            munmap(<char *>start + used, total - head - used)
        self.base = <char *>start
        self.nbytes = nbytes
        self.mapped_nbytes = used
        if align == HUGE:
            self.huge_pages = madvise(self.base, used, MADV_HUGEPAGE) == 0
        return 0

    def keep_from_children(self):
        with nogil:
            madvise(self.base, self.mapped_nbytes, MADV_DONTFORK)
        self.owner_pid = getpid()

    def populate(self, offset, nbytes):
        cdef size_t c_offset = offset
        cdef size_t c_nbytes = nbytes
        cdef char *start = self.base + c_offset
        cdef int code
        if c_offset > self.mapped_nbytes or c_nbytes > self.mapped_nbytes - c_offset:
            raise ValueError(f"{offset}..{offset + nbytes} leaves the {self.mapped_nbytes} bytes")
        with nogil:
            code = 0
            if madvise(start, c_nbytes, MADV_POPULATE_WRITE) != 0:
                code = errno
            if code == EINVAL:               # Linux before 5.14 does not know it
                memset(start, 0, c_nbytes)
                code = 0
        if code != 0:                        # touching it all the same might end the process
            raise MemoryError(f"cannot have {nbytes} bytes: {os.strerror(code)}")
        with nogil:
            code = mlock(start, c_nbytes)
        return code == 0

    @property
    def address(self):
        return <uintptr_t>self.base

    def region(self, offset, nbytes, span):
        cdef size_t c_offset = offset
        cdef size_t c_nbytes = nbytes
        cdef size_t c_span = span
        if c_nbytes > c_span or c_offset > self.nbytes or c_span > self.nbytes - c_offset:
            raise ValueError(f"region {offset}..{offset + span} leaves the {self.nbytes} bytes")
        cdef Region region = Region.__new__(Region)
        region.memory = self
        region.ptr = self.base + c_offset
        region.c_nbytes = <Py_ssize_t>c_nbytes
        region.span = c_span
        return region

    def __dealloc__(self):
        # What no child has is not a child's to unmap: something else of its may be there by now.
        if self.base != NULL and self.owner_pid in (0, getpid()):
            with nogil:
                munmap(self.base, self.mapped_nbytes)


def advise_huge_pages(address, nbytes):
    cdef uintptr_t start = address
    cdef uintptr_t stop = start + <size_t>nbytes
    cdef bint taken = False
    start = (start + HUGE - 1) & ~<uintptr_t>(HUGE - 1)
    stop &= ~<uintptr_t>(HUGE - 1)
    if stop > start:
        with nogil:
            taken = madvise(<void *>start, stop - start, MADV_HUGEPAGE) == 0
    return taken


@cython.final
@cython.no_gc                 # holds a Memory, which holds nothing: no cycle can run through it
cdef class Region:
    def __init__(self):
        raise TypeError("a Region comes from Memory.region")

    @property
    def nbytes(self):
        return self.c_nbytes

    @property
    def address(self):
        return <uintptr_t>self.ptr

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.ptr, self.c_nbytes, 0, flags)

    def __dealloc__(self):
        # Whole pages inside the span go back to the system now; unmapping them instead would cut
        # the mapping in two each time, and a process may have only some 65,000 of those.
        cdef uintptr_t start, stop
        if self.memory is None:
            return
        start = (<uintptr_t>self.ptr + PAGE - 1) & ~<uintptr_t>(PAGE - 1)
        stop = (<uintptr_t>self.ptr + self.span) & ~<uintptr_t>(PAGE - 1)
        if stop > start:
            with nogil:
                madvise(<void *>start, stop - start, MADV_DONTNEED)
