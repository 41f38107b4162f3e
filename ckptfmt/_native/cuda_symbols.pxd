# The functions of libcudart that are used, as a table that is complete or absent.
#
# Prototypes and values are those of CUDA's public headers, the same from 11.0 to 13; none of them
# is needed to build.

from ckptfmt._native.device cimport Fault

cdef enum:
    CUDA_OUT_OF_MEMORY = 2
    CUDA_NOT_READY = 600
    CUDA_HOST_TO_DEVICE = 1
    CUDA_DEVICE_TO_HOST = 2
    CUDA_STREAM_NON_BLOCKING = 0x1   # waits for no work on the default stream
    CUDA_EVENT_FLAGS = 0x3           # the host sleeps while it waits (0x1), no times are kept (0x2)
    CUDA_HOST_PORTABLE = 0x1         # pinned for all devices

cdef struct CudaSymbols:
    const char *(*error_name)(int code) noexcept nogil
    const char *(*error_string)(int code) noexcept nogil
    int (*last_error)() noexcept nogil
    int (*runtime_version)(int *version) noexcept nogil
    int (*driver_version)(int *version) noexcept nogil
    int (*set_device)(int device) noexcept nogil
    int (*memory_info)(size_t *free, size_t *total) noexcept nogil
    int (*host_register)(void *pointer, size_t nbytes, unsigned flags) noexcept nogil
    int (*host_unregister)(void *pointer) noexcept nogil
    int (*host_alloc)(void **pointer, size_t nbytes, unsigned flags) noexcept nogil
    int (*free_host)(void *pointer) noexcept nogil
    int (*memcpy)(void *to, const void *source, size_t nbytes, int kind) noexcept nogil
    int (*memcpy_async)(void *to, const void *source, size_t nbytes, int kind,
                        void *stream) noexcept nogil
    int (*create_stream)(void **stream, unsigned flags) noexcept nogil
    int (*destroy_stream)(void *stream) noexcept nogil
    int (*synchronize_stream)(void *stream) noexcept nogil
    int (*stream_wait_event)(void *stream, void *event, unsigned flags) noexcept nogil
    int (*create_event)(void **event, unsigned flags) noexcept nogil
    int (*destroy_event)(void *event) noexcept nogil
    int (*record_event)(void *event, void *stream) noexcept nogil
    int (*query_event)(void *event) noexcept nogil
    int (*synchronize_event)(void *event) noexcept nogil

cdef CudaSymbols cuda

cdef int need_cuda() except -1
cdef int cuda_failed(Fault *fault, const char *call, int code) noexcept nogil
cdef int cuda_check(const char *call, int code) except -1
