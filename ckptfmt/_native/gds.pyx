"""GPUDirect Storage: files read straight into a GPU's memory by libcufile, opened at first use.

Prototypes are those of cufile.h, the same from CUDA 11.4 to 13.
"""

cimport cython
from libc.errno cimport EIO, errno
from libc.stdlib cimport calloc, free

from ckptfmt._native.device cimport fill_table

import ctypes
import os

cdef enum:
    OPAQUE_FD = 1
    DRIVER_ALREADY_OPEN = 5026

cdef struct Error:            # CUfileError_t
    int code                  # of CUfileOpError
    int driver                # of CUresult

cdef struct Descriptor:       # CUfileDescr_t
    int kind
    int padding
    long long fd              # a union with a pointer
    const void *operations

cdef struct Properties:       # CUfileDrvProps_t: its beginning, and more room than it takes
    unsigned nvfs_major
    unsigned rest[255]

cdef struct Symbols:
    Error (*driver_open)() noexcept nogil
    Error (*properties)(Properties *found) noexcept nogil
    Error (*register_file)(void **handle, Descriptor *file) noexcept nogil
    void (*forget_file)(void *handle) noexcept nogil
    Py_ssize_t (*read)(void *handle, void *base, size_t nbytes, long long offset,
                       long long within) noexcept nogil

cdef Symbols cufile
cdef bint is_open = False


cdef size_t at(void *field):
    """Where a field stands in the table."""
    return <size_t>(<char *>field - <char *>&cufile)


cdef list NAMES = [
    ("cuFileDriverOpen", at(<void *>&cufile.driver_open), True),
    ("cuFileDriverGetProperties", at(<void *>&cufile.properties), True),
    ("cuFileHandleRegister", at(<void *>&cufile.register_file), True),
    ("cuFileHandleDeregister", at(<void *>&cufile.forget_file), True),
    ("cuFileRead", at(<void *>&cufile.read), True),
]


def open_cufile(path):
    global is_open
    cdef Error error
    cdef Properties properties
    missing = fill_table(&cufile, NAMES, ctypes.CDLL(path, os.RTLD_NOW | os.RTLD_LOCAL))
    if missing:
        raise OSError(f"{path}: lacks {', '.join(missing)}")
    with nogil:
        error = cufile.driver_open()
    if error.code not in (0, DRIVER_ALREADY_OPEN):
        raise OSError(f"cuFileDriverOpen failed with code {error.code}")
    with nogil:
        error = cufile.properties(&properties)
    if error.code != 0:
        raise OSError(f"cuFileDriverGetProperties failed with code {error.code}")
    if properties.nvfs_major == 0:
        raise OSError("its driver is not there: libcufile would only copy through the host")
    is_open = True


@cython.final
cdef class CuFile:
    def __init__(self, fds):
        cdef Descriptor file
        cdef Error error
        cdef int i
        if not is_open:
            raise RuntimeError("libcufile has not been opened")
        self.handles = <void **>calloc(max(1, len(fds)), sizeof(void *))
        if self.handles == NULL:
            raise MemoryError
        for i in range(len(fds)):
            file.kind, file.padding, file.fd, file.operations = OPAQUE_FD, 0, fds[i], NULL
            with nogil:
                error = cufile.register_file(&self.handles[i], &file)
            if error.code != 0:
                raise OSError(f"cuFileHandleRegister failed with code {error.code}")
            self.n_handles = i + 1

    def close(self):
        cdef int i
        for i in range(self.n_handles):
            cufile.forget_file(self.handles[i])
        self.n_handles = 0

    def __dealloc__(self):
        self.close()
        free(self.handles)


cdef long long gds_read(void *handle, void *address, size_t nbytes,
                        long long offset) noexcept nogil:
    """As pread: bytes read, or an errno, negative."""
    cdef Py_ssize_t got = cufile.read(handle, address, nbytes, offset, 0)
    if got >= 0:
        return got
    return -errno if got == -1 else -EIO
