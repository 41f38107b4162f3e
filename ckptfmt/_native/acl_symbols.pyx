"""Ascend's runtime, ACL: opened at first use, never linked.

A table of the functions that are used is filled by name. It is complete, or opening fails with what
is missing; what only newer versions of CANN have may be absent and has a fallback.
"""

from libc.string cimport memset, strncpy

from ckptfmt._native.device cimport MESSAGE, Fault, fill_table

import ctypes
import os

from ckptfmt.device_errors import device_error

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


cdef size_t at(void *field):
    """Where a field stands in the table."""
    return <size_t>(<char *>field - <char *>&acl)


cdef list NAMES = [
    ("aclInit", at(<void *>&acl.init), True),
    ("aclGetRecentErrMsg", at(<void *>&acl.recent_message), True),
    ("aclrtGetSocName", at(<void *>&acl.soc_name), True),
    ("aclrtGetRunMode", at(<void *>&acl.run_mode), True),
    ("aclrtSetDevice", at(<void *>&acl.set_device), True),
    ("aclrtGetCurrentContext", at(<void *>&acl.current_context), True),
    ("aclrtSetCurrentContext", at(<void *>&acl.set_context), True),
    ("aclrtMallocHost", at(<void *>&acl.malloc_host), True),
    ("aclrtFreeHost", at(<void *>&acl.free_host), True),
    ("aclrtGetMemInfo", at(<void *>&acl.memory_info), True),
    ("aclrtMemcpy", at(<void *>&acl.memcpy), True),
    ("aclrtMemcpyAsync", at(<void *>&acl.memcpy_async), True),
    ("aclrtCreateStream", at(<void *>&acl.create_stream), True),
    ("aclrtDestroyStream", at(<void *>&acl.destroy_stream), True),
    ("aclrtSynchronizeStream", at(<void *>&acl.synchronize_stream), True),
    ("aclrtCreateEvent", at(<void *>&acl.create_event), True),
    ("aclrtDestroyEvent", at(<void *>&acl.destroy_event), True),
    ("aclrtRecordEvent", at(<void *>&acl.record_event), True),
    ("aclrtQueryEvent", at(<void *>&acl.query_event), True),
    ("aclrtSynchronizeEvent", at(<void *>&acl.synchronize_event), True),
    ("aclrtStreamWaitEvent", at(<void *>&acl.stream_wait_event), True),
    ("aclrtQueryEventStatus", at(<void *>&acl.query_event_status), False),
    ("aclrtCreateEventExWithFlag", at(<void *>&acl.create_event_ex), False),
    ("aclrtCreateEventWithFlag", at(<void *>&acl.create_event_flag), False),
    ("aclrtHostRegister", at(<void *>&acl.host_register), False),
    ("aclrtHostRegisterV2", at(<void *>&acl.host_register_v2), False),
    ("aclrtHostUnregister", at(<void *>&acl.host_unregister), False),
    ("aclrtPointerGetAttributes", at(<void *>&acl.attributes), False),
    ("aclsysGetCANNVersion", at(<void *>&acl.cann_version), False),
]


def open_acl(path, *, loaded_only=False):
    global is_open
    mode = os.RTLD_NOW | os.RTLD_GLOBAL | (os.RTLD_NOLOAD if loaded_only else 0)
    # Through ctypes: an extension that calls dlopen itself, built with glibc 2.34, needs that.
    missing = fill_table(&acl, NAMES, ctypes.CDLL(path, mode))
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
