"""Regions as DLPack capsules: a framework makes a tensor of one in a single step.

``torch.frombuffer`` and two views take 4 us for a tensor, this takes 0.6: with 100,000 of them that
is most of a load from the page cache. The structures are those of DLPack 0.8, which torch reads
since 1.10 (github.com/dmlc/dlpack, ``dlpack.h``).
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc

from ckptfmt._native.memory cimport Region

cdef extern from "Python.h" nogil:
    int Py_IsInitialized()

cdef enum:
    CPU = 1                   # kDLCPU

cdef size_t MAX_NBYTES = <size_t>1 << 62

cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void *data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t *shape
    int64_t *strides          # NULL: row-major
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor tensor
    void *owner
    void (*release)(DLManagedTensor *) noexcept nogil


cdef void release(DLManagedTensor *managed) noexcept nogil:
    """The tensor has died, in whatever thread; perhaps after the interpreter."""
    if Py_IsInitialized():
        with gil:
            Py_DECREF(<object>managed.owner)
    free(managed)


cdef void drop(object capsule) noexcept:
    """A capsule that nobody has taken; one that was is named otherwise by then."""
    cdef DLManagedTensor *managed
    if PyCapsule_IsValid(capsule, "dltensor"):
        managed = <DLManagedTensor *>PyCapsule_GetPointer(capsule, "dltensor")
        managed.release(managed)


def capsule(Region region not None, code, bits, shape):
    cdef Py_ssize_t ndim = len(shape)
    cdef int64_t *c_shape
    cdef DLManagedTensor *managed
    cdef uint8_t c_code = code, c_bits = bits
    cdef size_t nbytes = c_bits // 8
    cdef Py_ssize_t i
    managed = <DLManagedTensor *>malloc(sizeof(DLManagedTensor) + ndim * sizeof(int64_t))
    if managed == NULL:
        raise MemoryError
    c_shape = <int64_t *>(managed + 1)
    try:
        for i in range(ndim):
            c_shape[i] = shape[i]
            if c_shape[i] < 0 or (c_shape[i] > 0 and nbytes > MAX_NBYTES // <size_t>c_shape[i]):
                raise ValueError(f"{shape} is no shape")
            nbytes *= <size_t>c_shape[i]
        if nbytes != <size_t>region.c_nbytes:
            raise ValueError(f"{shape} of {bits} bits needs {nbytes} bytes, not {region.c_nbytes}")
        managed.tensor = DLTensor(
            region.ptr, DLDevice(CPU, 0), <int32_t>ndim, DLDataType(c_code, c_bits, 1), c_shape,
            NULL, 0)
        managed.owner = <void *>region
        managed.release = release
        made = PyCapsule_New(managed, "dltensor", drop)
    except BaseException:
        free(managed)
        raise
    Py_INCREF(region)
    return made
