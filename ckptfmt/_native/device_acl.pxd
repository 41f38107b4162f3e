from ckptfmt._native.device cimport DeviceOps, Fault

cdef const DeviceOps *acl_ops() except NULL
cdef int make_event(void **event, Fault *fault) noexcept nogil
