"""The NPU's table: copies on a stream of each worker's own, an event for each slot."""

from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free

from ckptfmt._native.acl_symbols cimport EVENT_FLAGS, HOST_TO_DEVICE, acl, failed, need_acl
from ckptfmt._native.device cimport DeviceOps, Fault


cdef struct Queue:
    void *stream
    unsigned n_slots
    void **events


cdef int make_event(void **event, Fault *fault) noexcept nogil:
    """An event that may be recorded again and again, of the newest kind there is."""
    cdef int code
    if acl.create_event_ex != NULL:
        code = acl.create_event_ex(event, EVENT_FLAGS)
        return failed(fault, b"aclrtCreateEventExWithFlag", code) if code != 0 else 0
    if acl.create_event_flag != NULL:
        code = acl.create_event_flag(event, EVENT_FLAGS)
        return failed(fault, b"aclrtCreateEventWithFlag", code) if code != 0 else 0
    code = acl.create_event(event)
    return failed(fault, b"aclrtCreateEvent", code) if code != 0 else 0


cdef int acl_open(void **queue, int device, void *after, unsigned slots,
                  Fault *fault) noexcept nogil:
    cdef Queue *self
    cdef Fault second
    cdef int code = acl.set_device(device)       # the context is per thread
    cdef unsigned i
    if code != 0:
        return failed(fault, b"aclrtSetDevice", code)
    self = <Queue *>calloc(1, sizeof(Queue) + slots * sizeof(void *))
    if self == NULL:
        return failed(fault, b"calloc", ENOMEM)
    self.n_slots = slots
    self.events = <void **>(self + 1)
    code = acl.create_stream(&self.stream)
    if code != 0:
        self.stream = NULL
        failed(fault, b"aclrtCreateStream", code)
        acl_close(self, &second)
        return 1
    for i in range(slots):
        if make_event(&self.events[i], fault) != 0:
            self.events[i] = NULL
            acl_close(self, &second)
            return 1
    if after != NULL:
        code = acl.stream_wait_event(self.stream, after)
        if code != 0:
            failed(fault, b"aclrtStreamWaitEvent", code)
            acl_close(self, &second)
            return 1
    queue[0] = self
    return 0


cdef int acl_copy(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                  Fault *fault) noexcept nogil:
    cdef int code = acl.memcpy_async(target, room, source, nbytes, HOST_TO_DEVICE,
                                     (<Queue *>queue).stream)
    return failed(fault, b"aclrtMemcpyAsync", code) if code != 0 else 0


cdef int acl_copy_now(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                      Fault *fault) noexcept nogil:
    cdef int code
    # A synchronous copy waits for no stream, and so not for the event that ours waits for.
    code = acl.synchronize_stream((<Queue *>queue).stream)
    if code != 0:
        return failed(fault, b"aclrtSynchronizeStream", code)
    code = acl.memcpy(target, room, source, nbytes, HOST_TO_DEVICE)
    return failed(fault, b"aclrtMemcpy", code) if code != 0 else 0


cdef int acl_record(void *queue, unsigned slot, Fault *fault) noexcept nogil:
    cdef Queue *self = <Queue *>queue
    cdef int code = acl.record_event(self.events[slot], self.stream)
    return failed(fault, b"aclrtRecordEvent", code) if code != 0 else 0


cdef int acl_arrived(void *queue, unsigned slot, bint block, bint *yes,
                     Fault *fault) noexcept nogil:
    cdef void *event = (<Queue *>queue).events[slot]
    cdef int status = 0, code
    if block:
        code = acl.synchronize_event(event)
        yes[0] = code == 0
        return failed(fault, b"aclrtSynchronizeEvent", code) if code != 0 else 0
    # The two queries call complete by opposite numbers.
    if acl.query_event_status != NULL:
        code = acl.query_event_status(event, &status)
        yes[0] = status == 1
        return failed(fault, b"aclrtQueryEventStatus", code) if code != 0 else 0
    code = acl.query_event(event, &status)
    yes[0] = status == 0
    return failed(fault, b"aclrtQueryEvent", code) if code != 0 else 0


cdef int acl_drain(void *queue, Fault *fault) noexcept nogil:
    cdef int code = acl.synchronize_stream((<Queue *>queue).stream)
    return failed(fault, b"aclrtSynchronizeStream", code) if code != 0 else 0


cdef int acl_close(void *queue, Fault *fault) noexcept nogil:
    """The first failure is told; what cannot be released is left behind."""
    cdef Queue *self = <Queue *>queue
    cdef int code, told = 0
    cdef unsigned i
    for i in range(self.n_slots):
        if self.events[i] != NULL:
            code = acl.destroy_event(self.events[i])
            if code != 0 and told == 0:
                told = failed(fault, b"aclrtDestroyEvent", code)
    if self.stream != NULL:
        code = acl.destroy_stream(self.stream)
        if code != 0 and told == 0:
            told = failed(fault, b"aclrtDestroyStream", code)
    free(self)
    return told


cdef DeviceOps OPS
OPS.name = b"npu"
OPS.alignment = 64            # before CANN 8.5
OPS.open = acl_open
OPS.copy = acl_copy
OPS.copy_now = acl_copy_now
OPS.record = acl_record
OPS.arrived = acl_arrived
OPS.drain = acl_drain
OPS.close = acl_close


cdef const DeviceOps *acl_ops() except NULL:
    need_acl()
    return &OPS
