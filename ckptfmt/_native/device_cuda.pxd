from ckptfmt._native.device cimport DeviceOps

cdef const DeviceOps *cuda_ops() except NULL
