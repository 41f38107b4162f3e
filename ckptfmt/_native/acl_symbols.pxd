# The functions of libascendcl that are used, as a table that is complete or absent.
#
# Prototypes and values are those of CANN's public headers; none of them is needed to build.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from ckptfmt._native.device cimport Fault

cdef enum:
    REPEAT_INITIALIZE = 100002
    CONTEXT_NULL = 107002
    HOST_TO_DEVICE = 1
    DEVICE_TO_HOST = 2
    MEMORY_HBM = 1            # DDR-only chips answer for their DDR
    EVENT_FLAGS = 0x3         # waited for by streams (0x1) and by the host (0x2)
    HOST_MAPPED = 0x2         # of aclrtHostRegisterV2
    AT_HOST = 0               # aclrtMemLocationType

cdef struct PointerAttributes:
    uint32_t device
    uint32_t where            # aclrtMemLocationType
    uint32_t page_nbytes
    uint32_t reserved[4]

cdef struct AclSymbols:
    # Since CANN 7.0 and earlier: all of them must be there.
    int (*init)(const char *config) noexcept nogil
    const char *(*recent_message)() noexcept nogil
    const char *(*soc_name)() noexcept nogil
    int (*run_mode)(int *mode) noexcept nogil
    int (*set_device)(int32_t device) noexcept nogil
    int (*current_context)(void **context) noexcept nogil
    int (*set_context)(void *context) noexcept nogil
    int (*malloc_host)(void **pointer, size_t nbytes) noexcept nogil
    int (*free_host)(void *pointer) noexcept nogil
    int (*memory_info)(int kind, size_t *free, size_t *total) noexcept nogil
    int (*memcpy)(void *to, size_t room, const void *source, size_t nbytes, int kind) noexcept nogil
    int (*memcpy_async)(void *to, size_t room, const void *source, size_t nbytes, int kind,
                        void *stream) noexcept nogil
    int (*create_stream)(void **stream) noexcept nogil
    int (*destroy_stream)(void *stream) noexcept nogil
    int (*synchronize_stream)(void *stream) noexcept nogil
    int (*create_event)(void **event) noexcept nogil
    int (*destroy_event)(void *event) noexcept nogil
    int (*record_event)(void *event, void *stream) noexcept nogil
    int (*query_event)(void *event, int *status) noexcept nogil          # 0: complete
    int (*synchronize_event)(void *event) noexcept nogil
    int (*stream_wait_event)(void *stream, void *event) noexcept nogil
    # Later, or not everywhere: NULL if missing.
    int (*query_event_status)(void *event, int *status) noexcept nogil   # 1: complete
    int (*create_event_ex)(void **event, uint32_t flags) noexcept nogil
    int (*create_event_flag)(void **event, uint32_t flags) noexcept nogil
    int (*host_register)(void *pointer, uint64_t nbytes, int kind, void **mapped) noexcept nogil
    int (*host_register_v2)(void *pointer, uint64_t nbytes, uint32_t flags) noexcept nogil
    int (*host_unregister)(void *pointer) noexcept nogil
    int (*attributes)(const void *pointer, PointerAttributes *found) noexcept nogil
    int (*cann_version)(int package, void *found) noexcept nogil         # 512 bytes

cdef AclSymbols acl

cdef int need_acl() except -1
cdef int failed(Fault *fault, const char *call, int code) noexcept nogil
cdef int check(const char *call, int code) except -1
