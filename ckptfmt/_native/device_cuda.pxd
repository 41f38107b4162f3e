from ckptfmt._native.device cimport DeviceOps, Fault

cdef const DeviceOps *cuda_ops() except NULL
cdef int cuda_enter(int device, Fault *fault) noexcept nogil
