"""What is asked of ACL outside the engine's loop: memory, registration, versions, events."""

import warnings

cimport cython
from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memset

from ckptfmt._native.acl_symbols cimport (
    AT_HOST, CONTEXT_NULL, DEVICE_TO_HOST, HOST_MAPPED, HOST_TO_DEVICE, MEMORY_HBM,
    REPEAT_INITIALIZE, PointerAttributes, acl, check, failed, need_acl,
)
from ckptfmt._native.device cimport DeviceOps, Fault, copy_one, raised
from ckptfmt._native.device_acl cimport acl_ops, make_event

from ckptfmt.errors import CleanupWarning


def acl_has(name):
    """Whether an optional function is there."""
    need_acl()
    return {
        "aclrtHostRegister": acl.host_register != NULL,
        "aclrtHostRegisterV2": acl.host_register_v2 != NULL,
        "aclrtHostUnregister": acl.host_unregister != NULL,
        "aclrtPointerGetAttributes": acl.attributes != NULL,
        "aclsysGetCANNVersion": acl.cann_version != NULL,
    }[name]


cdef class _Entered:
    """A device's context in this thread, for a while: torch keeps in mind which one it has set."""

    cdef int device
    cdef void *before

    def __init__(self, int device):
        self.device = device

    def __enter__(self):
        cdef int code
        with nogil:
            code = acl.current_context(&self.before)
        if code == CONTEXT_NULL:
            self.before = NULL               # the thread has none yet
        else:
            check(b"aclrtGetCurrentContext", code)
        with nogil:
            code = acl.set_device(self.device)
        check(b"aclrtSetDevice", code)

    def __exit__(self, kind, error, trace):
        cdef int code
        if self.before == NULL:
            return
        with nogil:
            code = acl.set_context(self.before)
        if code != 0:                        # what was done is done, and has an owner
            warnings.warn(
                f"aclrtSetCurrentContext failed with code {code}: "
                f"this thread stays on device {self.device}", CleanupWarning)


@cython.final
cdef class Acl:
    cdef int device
    cdef readonly bint undrained

    def __init__(self, device):
        need_acl()
        self.device = device

    @staticmethod
    def initialize():
        cdef int code
        need_acl()
        with nogil:
            code = acl.init(NULL)
        if code != REPEAT_INITIALIZE:
            check(b"aclInit", code)

    def run_mode(self):
        cdef int mode = 0, code
        with _Entered(self.device):
            with nogil:
                code = acl.run_mode(&mode)
            check(b"aclrtGetRunMode", code)
            return "RC" if mode == 0 else "EP"

    def soc_name(self):
        cdef const char *name
        with _Entered(self.device):
            with nogil:
                name = acl.soc_name()
            return name.decode(errors="replace") if name != NULL else ""

    def version(self, package):
        cdef char found[512]
        cdef int code, c_package = package
        if acl.cann_version == NULL:
            return ""
        memset(found, 0, 512)
        with nogil:
            code = acl.cann_version(c_package, found)
        return found[:128].split(b"\0")[0].decode(errors="replace") if code == 0 else ""

    def memory(self):
        cdef size_t free_nbytes = 0, total = 0
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.memory_info(MEMORY_HBM, &free_nbytes, &total)
            check(b"aclrtGetMemInfo", code)
            return free_nbytes, total

    def register(self, address, nbytes, *, v2):
        cdef void *pointer = <void *><uintptr_t>address
        cdef void *mapped = NULL
        cdef uint64_t c_nbytes = nbytes
        cdef int code
        with _Entered(self.device):
            if v2:
                with nogil:
                    code = acl.host_register_v2(pointer, c_nbytes, HOST_MAPPED)
                check(b"aclrtHostRegisterV2", code)
            else:
                with nogil:
                    code = acl.host_register(pointer, c_nbytes, 0, &mapped)
                check(b"aclrtHostRegister", code)

    def unregister(self, address):
        cdef void *pointer = <void *><uintptr_t>address
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.host_unregister(pointer)
            check(b"aclrtHostUnregister", code)

    def is_host(self, address):
        cdef void *pointer = <void *><uintptr_t>address
        cdef PointerAttributes found
        cdef int code
        if acl.attributes == NULL:
            return None
        memset(&found, 0, sizeof(found))
        with _Entered(self.device):
            with nogil:
                code = acl.attributes(pointer, &found)
            return code == 0 and found.where == AT_HOST

    def malloc_host(self, nbytes):
        cdef void *pointer = NULL
        cdef size_t c_nbytes = nbytes
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.malloc_host(&pointer, c_nbytes)
            check(b"aclrtMallocHost", code)
            return <uintptr_t>pointer

    def free_host(self, address):
        cdef void *pointer = <void *><uintptr_t>address
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.free_host(pointer)
            check(b"aclrtFreeHost", code)

    def copy(self, target, source, nbytes, *, to_device):
        cdef void *c_target = <void *><uintptr_t>target
        cdef void *c_source = <void *><uintptr_t>source
        cdef size_t c_nbytes = nbytes
        cdef int code, kind = HOST_TO_DEVICE if to_device else DEVICE_TO_HOST
        with _Entered(self.device):
            with nogil:
                code = acl.memcpy(c_target, c_nbytes, c_source, c_nbytes, kind)
            check(b"aclrtMemcpy", code)

    def copy_async(self, target, source, nbytes):
        cdef void *c_target = <void *><uintptr_t>target
        cdef void *c_source = <void *><uintptr_t>source
        cdef size_t c_nbytes = nbytes
        cdef int code, device = self.device
        cdef bint undrained = False, unreleased = False
        cdef Fault fault, second
        cdef const DeviceOps *ops = acl_ops()
        with _Entered(self.device), nogil:
            code = copy_one(ops, device, c_target, c_source, c_nbytes, &fault, &second,
                            &undrained, &unreleased)
        self.undrained = undrained
        if unreleased:
            warnings.warn(f"{raised(&second)}; it is never freed", CleanupWarning)
        if code != 0:
            raise raised(&fault)

    def record(self, stream):
        """An event behind what a stream has been given so far."""
        cdef void *c_stream = <void *><uintptr_t>stream
        cdef void *event = NULL
        cdef Fault fault
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = make_event(&event, &fault)
            if code != 0:
                raise raised(&fault)
            with nogil:
                code = acl.record_event(event, c_stream)
            if code != 0:
                failed(&fault, b"aclrtRecordEvent", code)
                with nogil:
                    acl.destroy_event(event)
                raise raised(&fault)
            return <uintptr_t>event

    def synchronize(self, stream):
        cdef void *c_stream = <void *><uintptr_t>stream
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.synchronize_stream(c_stream)
            check(b"aclrtSynchronizeStream", code)

    def destroy_event(self, event):
        cdef void *c_event = <void *><uintptr_t>event
        cdef int code
        with _Entered(self.device):
            with nogil:
                code = acl.destroy_event(c_event)
            check(b"aclrtDestroyEvent", code)
