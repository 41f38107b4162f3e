"""CRC32C of anything that has a buffer, in hardware where the machine has it."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "crc32c.h" nogil:
    uint32_t ckptfmt_crc32c(uint32_t crc, const void *data, size_t nbytes)
    uint32_t ckptfmt_crc32c_table(uint32_t crc, const void *data, size_t nbytes)
    uint32_t ckptfmt_crc32c_combine(uint32_t first, uint32_t second, uint64_t nbytes)
    const char *ckptfmt_crc32c_name()


cdef uint32_t crc32c_of(uint32_t crc, const void *data, size_t nbytes) noexcept nogil:
    return ckptfmt_crc32c(crc, data, nbytes)


def crc32c(data, crc=0, *, implementation="auto"):
    cdef uint32_t c_crc = crc
    cdef bint by_table = implementation == "table"
    cdef Py_buffer view
    if implementation not in ("auto", "table"):
        raise ValueError(f"implementation is 'auto' or 'table', not {implementation!r}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            if by_table:
                c_crc = ckptfmt_crc32c_table(c_crc, view.buf, <size_t>view.len)
            else:
                c_crc = ckptfmt_crc32c(c_crc, view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return c_crc


def crc32c_combine(first, second, nbytes):
    cdef uint32_t c_first = first
    cdef uint32_t c_second = second
    cdef uint64_t c_nbytes = nbytes
    return ckptfmt_crc32c_combine(c_first, c_second, c_nbytes)


def crc32c_implementation():
    return ckptfmt_crc32c_name().decode()
