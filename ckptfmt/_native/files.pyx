"""System calls on files that Python does not have, or not in every version we run on.

All raise ``OSError`` with its errno; the caller knows the file's name and says more.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from posix.unistd cimport _SC_PAGESIZE, sysconf

from ckptfmt._native.io_pread cimport pread_retry

import os

cdef extern from "<fcntl.h>" nogil:
    int c_fallocate "fallocate"(int fd, int mode, long long offset, long long nbytes)

cdef extern from "<sys/mman.h>" nogil:
    int mincore(void *address, size_t nbytes, unsigned char *vector)

cdef extern from "syscalls.h" nogil:
    cdef struct Cachestat "ckptfmt_cachestat":
        uint64_t cached
    int c_cachestat "ckptfmt_cachestat"(int fd, uint64_t offset, uint64_t nbytes, Cachestat *out)
    int c_dio_alignment "ckptfmt_dio_alignment"(int fd, uint32_t *memory, uint32_t *offset)
    int c_renameat2 "ckptfmt_renameat2"(const char *old, const char *new, unsigned flags)
    unsigned EXCHANGE "CKPTFMT_RENAME_EXCHANGE"

cdef size_t PAGE = <size_t>sysconf(_SC_PAGESIZE)


cdef object os_error():
    cdef int code = errno
    return OSError(code, os.strerror(code))


def fallocate(fd, nbytes):
    cdef int c_fd = fd, code
    cdef long long c_nbytes = nbytes
    with nogil:
        code = c_fallocate(c_fd, 0, 0, c_nbytes)
        while code != 0 and errno == EINTR:
            code = c_fallocate(c_fd, 0, 0, c_nbytes)
    if code != 0:
        raise os_error()


def pread_into(fd, buffer, offset):
    cdef int c_fd = fd
    cdef long long c_offset = offset, got
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        with nogil:
            got = pread_retry(c_fd, <char *>view.buf, <size_t>view.len, c_offset)
    finally:
        PyBuffer_Release(&view)
    if got < 0:
        raise OSError(-got, os.strerror(-got))
    return got


def rename_exchange(old, new):
    cdef bytes old_name = os.fsencode(old), new_name = os.fsencode(new)
    cdef const char *c_old = old_name
    cdef const char *c_new = new_name
    cdef int code
    with nogil:
        code = c_renameat2(c_old, c_new, EXCHANGE)
    if code != 0:
        raise os_error()


def dio_alignment(fd):
    cdef uint32_t memory = 0, offset = 0
    cdef int c_fd = fd
    cdef int code = c_dio_alignment(c_fd, &memory, &offset)
    if code < 0:
        raise os_error()
    return (memory, offset) if code == 0 else None


def cached_nbytes(fd, offset, nbytes):
    cdef Cachestat stat
    cdef int c_fd = fd, code
    cdef uint64_t c_offset = offset, c_nbytes = nbytes
    with nogil:
        code = c_cachestat(c_fd, c_offset, c_nbytes, &stat)
    if code != 0:
        raise os_error()
    return min(stat.cached * PAGE, c_nbytes)


def resident_nbytes(fd, offset, nbytes):
    cdef int c_fd = fd, code
    cdef long long c_offset = offset & ~(PAGE - 1)
    cdef size_t c_nbytes = offset + nbytes - c_offset
    cdef size_t pages = (c_nbytes + PAGE - 1) // PAGE
    cdef size_t resident = 0, i
    cdef bytearray vector = bytearray(pages)
    cdef unsigned char *c_vector = vector
    cdef void *base = mmap(NULL, c_nbytes, PROT_READ, MAP_SHARED, c_fd, c_offset)
    if base == MAP_FAILED:
        raise os_error()
    code = mincore(base, c_nbytes, c_vector)
    error = os_error() if code != 0 else None
    munmap(base, c_nbytes)
    if error is not None:
        raise error
    for i in range(pages):
        resident += c_vector[i] & 1
    return min(resident * PAGE, <size_t>nbytes)
