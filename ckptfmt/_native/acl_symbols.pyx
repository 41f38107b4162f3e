"""Ascend's runtime, ACL: opened at first use, never linked.

A table of the functions that are used is filled by name. It is complete, or opening fails with what
is missing; what only newer versions of CANN have may be absent and has a fallback.
"""

from libc.string cimport memset, strncpy
from posix.dlfcn cimport RTLD_GLOBAL, RTLD_NOW, dlerror, dlopen, dlsym

from ckptfmt._native.device cimport MESSAGE, Fault

from ckptfmt.device_errors import device_error

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOLOAD

cdef bint is_open = False


cdef int need_acl() except -1:
    """Raise unless the table is complete."""
    if not is_open:
        raise RuntimeError("the ACL library has not been opened")
    return 0


cdef int failed(Fault *fault, const char *call, int code) noexcept nogil:
    """Note what failed. The runtime's message is this thread's and is gone after its next call."""
    cdef const char *message = acl.recent_message() if acl.recent_message != NULL else NULL
    fault.code = code
    fault.call = call
    memset(fault.message, 0, MESSAGE)
    if message != NULL:
        strncpy(fault.message, message, MESSAGE - 1)
    return 1


cdef object fill(void *library):
    """Look all names up; return those that are missing and must not be."""
    missing = []
    cdef void **place
    cdef void *found
    cdef size_t offset
    for name, offset, needed in NAMES:
        found = dlsym(library, name)
        if found == NULL and needed:
            missing.append(name.decode())
        place = <void **>(<char *>&acl + offset)
        place[0] = found
    return missing


cdef size_t at(void *field):
    """Where a field stands in the table."""
    return <size_t>(<char *>field - <char *>&acl)


cdef list NAMES = [
    (b"aclInit", at(<void *>&acl.init), True),
    (b"aclGetRecentErrMsg", at(<void *>&acl.recent_message), True),
    (b"aclrtGetSocName", at(<void *>&acl.soc_name), True),
    (b"aclrtGetRunMode", at(<void *>&acl.run_mode), True),
    (b"aclrtSetDevice", at(<void *>&acl.set_device), True),
    (b"aclrtGetCurrentContext", at(<void *>&acl.current_context), True),
    (b"aclrtSetCurrentContext", at(<void *>&acl.set_context), True),
    (b"aclrtMallocHost", at(<void *>&acl.malloc_host), True),
    (b"aclrtFreeHost", at(<void *>&acl.free_host), True),
    (b"aclrtGetMemInfo", at(<void *>&acl.memory_info), True),
    (b"aclrtMemcpy", at(<void *>&acl.memcpy), True),
    (b"aclrtMemcpyAsync", at(<void *>&acl.memcpy_async), True),
    (b"aclrtCreateStream", at(<void *>&acl.create_stream), True),
    (b"aclrtDestroyStream", at(<void *>&acl.destroy_stream), True),
    (b"aclrtSynchronizeStream", at(<void *>&acl.synchronize_stream), True),
    (b"aclrtCreateEvent", at(<void *>&acl.create_event), True),
    (b"aclrtDestroyEvent", at(<void *>&acl.destroy_event), True),
    (b"aclrtRecordEvent", at(<void *>&acl.record_event), True),
    (b"aclrtQueryEvent", at(<void *>&acl.query_event), True),
    (b"aclrtSynchronizeEvent", at(<void *>&acl.synchronize_event), True),
    (b"aclrtStreamWaitEvent", at(<void *>&acl.stream_wait_event), True),
    (b"aclrtQueryEventStatus", at(<void *>&acl.query_event_status), False),
    (b"aclrtCreateEventExWithFlag", at(<void *>&acl.create_event_ex), False),
    (b"aclrtCreateEventWithFlag", at(<void *>&acl.create_event_flag), False),
    (b"aclrtHostRegister", at(<void *>&acl.host_register), False),
    (b"aclrtHostRegisterV2", at(<void *>&acl.host_register_v2), False),
    (b"aclrtHostUnregister", at(<void *>&acl.host_unregister), False),
    (b"aclrtPointerGetAttributes", at(<void *>&acl.attributes), False),
    (b"aclsysGetCANNVersion", at(<void *>&acl.cann_version), False),
]


def open_acl(path, *, loaded_only=False):
    cdef bytes name = path.encode()
    cdef const char *c_name = name
    cdef int flags = RTLD_NOW | RTLD_GLOBAL
    cdef void *library
    cdef const char *error
    global is_open
    if loaded_only:
        flags |= RTLD_NOLOAD
    with nogil:
        library = dlopen(c_name, flags)
    if library == NULL:
        error = dlerror()
        raise OSError(error.decode(errors="replace") if error != NULL else f"{path}: not loaded")
    missing = fill(library)
    if missing:
        raise OSError(f"{path}: lacks {', '.join(missing)}")
    is_open = True


cdef int check(const char *call, int code) except -1:
    """Raise unless a call returned 0; the message is read before anything else is called."""
    cdef Fault fault
    if code != 0:
        failed(&fault, call, code)
        raise device_error(call.decode(), code, fault.message.decode(errors="replace"))
    return 0


cdef object raised(const Fault *fault):
    """The exception for what a device's function noted."""
    return device_error(
        fault.call.decode(), fault.code, fault.message.decode(errors="replace"))
