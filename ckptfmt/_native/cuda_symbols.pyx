"""CUDA's runtime: opened at first use, never linked.

A table of the functions that are used is filled by name; opening fails with what is missing.
"""

from libc.stdio cimport snprintf
from libc.string cimport memset

from ckptfmt._native.device cimport MESSAGE, Fault, fill_table

import ctypes
import os

from ckptfmt.device_errors import device_error

cdef bint is_open = False


cdef int need_cuda() except -1:
    """Raise unless the table is complete."""
    if not is_open:
        raise RuntimeError("the CUDA runtime has not been opened")
    return 0


cdef int cuda_failed(Fault *fault, const char *call, int code) noexcept nogil:
    """Note what failed, and take it back from the thread: torch would find it after its next call.
    """
    cdef const char *name
    cdef const char *said
    fault.code = code
    fault.call = call
    memset(fault.message, 0, MESSAGE)
    if is_open:
        name = cuda.error_name(code)
        said = cuda.error_string(code)
        snprintf(fault.message, MESSAGE, b"%s: %s", name, said)
        cuda.last_error()
    return 1


cdef size_t at(void *field):
    """Where a field stands in the table."""
    return <size_t>(<char *>field - <char *>&cuda)


cdef list NAMES = [
    ("cudaGetErrorName", at(<void *>&cuda.error_name), True),
    ("cudaGetErrorString", at(<void *>&cuda.error_string), True),
    ("cudaGetLastError", at(<void *>&cuda.last_error), True),
    ("cudaRuntimeGetVersion", at(<void *>&cuda.runtime_version), True),
    ("cudaDriverGetVersion", at(<void *>&cuda.driver_version), True),
    ("cudaSetDevice", at(<void *>&cuda.set_device), True),
    ("cudaMemGetInfo", at(<void *>&cuda.memory_info), True),
    ("cudaHostRegister", at(<void *>&cuda.host_register), True),
    ("cudaHostUnregister", at(<void *>&cuda.host_unregister), True),
    ("cudaHostAlloc", at(<void *>&cuda.host_alloc), True),
    ("cudaFreeHost", at(<void *>&cuda.free_host), True),
    ("cudaMemcpy", at(<void *>&cuda.memcpy), True),
    ("cudaMemcpyAsync", at(<void *>&cuda.memcpy_async), True),
    ("cudaStreamCreateWithFlags", at(<void *>&cuda.create_stream), True),
    ("cudaStreamDestroy", at(<void *>&cuda.destroy_stream), True),
    ("cudaStreamSynchronize", at(<void *>&cuda.synchronize_stream), True),
    ("cudaStreamWaitEvent", at(<void *>&cuda.stream_wait_event), True),
    ("cudaEventCreateWithFlags", at(<void *>&cuda.create_event), True),
    ("cudaEventDestroy", at(<void *>&cuda.destroy_event), True),
    ("cudaEventRecord", at(<void *>&cuda.record_event), True),
    ("cudaEventQuery", at(<void *>&cuda.query_event), True),
    ("cudaEventSynchronize", at(<void *>&cuda.synchronize_event), True),
]


def open_cuda(path, *, loaded_only=False):
    global is_open
    mode = os.RTLD_NOW | os.RTLD_LOCAL | (os.RTLD_NOLOAD if loaded_only else 0)
    missing = fill_table(&cuda, NAMES, ctypes.CDLL(path, mode))
    if missing:
        raise OSError(f"{path}: lacks {', '.join(missing)}")
    is_open = True


cdef int cuda_check(const char *call, int code) except -1:
    """Raise unless a call returned 0."""
    cdef Fault fault
    if code != 0:
        cuda_failed(&fault, call, code)
        raise device_error(call.decode(), code, fault.message.decode(errors="replace"))
    return 0
