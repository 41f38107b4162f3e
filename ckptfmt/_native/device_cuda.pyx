"""CUDA's table: copies on a stream of each worker's own, an event for each slot."""

from libc.stdlib cimport calloc, free

from ckptfmt._native.cuda_symbols cimport (
    CUDA_EVENT_FLAGS, CUDA_HOST_TO_DEVICE, CUDA_NOT_READY, CUDA_OUT_OF_MEMORY,
    CUDA_STREAM_NON_BLOCKING, cuda, cuda_failed, need_cuda,
)
from ckptfmt._native.device cimport DeviceOps, Fault


cdef struct Queue:
    void *stream
    unsigned n_slots
    void **events


cdef int cuda_enter(int device, Fault *fault) noexcept nogil:
    """Bring this thread, which is a worker's own, to a device."""
    cdef int code = cuda.set_device(device)
    return cuda_failed(fault, b"cudaSetDevice", code) if code != 0 else 0


cdef int cuda_open(void **queue, int device, void *after, unsigned slots,
                   Fault *fault) noexcept nogil:
    cdef Queue *self
    cdef Fault second
    cdef int code
    cdef unsigned i
    if cuda_enter(device, fault) != 0:
        return 1
    self = <Queue *>calloc(1, sizeof(Queue) + slots * sizeof(void *))
    if self == NULL:
        return cuda_failed(fault, b"cuda: calloc", CUDA_OUT_OF_MEMORY)
    self.n_slots = slots
    self.events = <void **>(self + 1)
    code = cuda.create_stream(&self.stream, CUDA_STREAM_NON_BLOCKING)
    if code != 0:
        self.stream = NULL
        cuda_failed(fault, b"cudaStreamCreateWithFlags", code)
        cuda_close(self, &second)
        return 1
    for i in range(slots):
        code = cuda.create_event(&self.events[i], CUDA_EVENT_FLAGS)
        if code != 0:
            self.events[i] = NULL
            cuda_failed(fault, b"cudaEventCreateWithFlags", code)
            cuda_close(self, &second)
            return 1
    if after != NULL:
        code = cuda.stream_wait_event(self.stream, after, 0)
        if code != 0:
            cuda_failed(fault, b"cudaStreamWaitEvent", code)
            cuda_close(self, &second)
            return 1
    queue[0] = self
    return 0


cdef int cuda_copy(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                   Fault *fault) noexcept nogil:
    cdef int code = cuda.memcpy_async(target, source, nbytes, CUDA_HOST_TO_DEVICE,
                                      (<Queue *>queue).stream)
    return cuda_failed(fault, b"cudaMemcpyAsync", code) if code != 0 else 0


cdef int cuda_copy_now(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                       Fault *fault) noexcept nogil:
    # cudaMemcpy may be back before bytes from pageable memory have landed.
    if cuda_copy(queue, target, room, source, nbytes, fault) != 0:
        return 1
    return cuda_drain(queue, fault)


cdef int cuda_record(void *queue, unsigned slot, Fault *fault) noexcept nogil:
    cdef Queue *self = <Queue *>queue
    cdef int code = cuda.record_event(self.events[slot], self.stream)
    return cuda_failed(fault, b"cudaEventRecord", code) if code != 0 else 0


cdef int cuda_arrived(void *queue, unsigned slot, bint block, bint *yes,
                      Fault *fault) noexcept nogil:
    cdef void *event = (<Queue *>queue).events[slot]
    cdef int code
    if block:
        code = cuda.synchronize_event(event)
        yes[0] = code == 0
        return cuda_failed(fault, b"cudaEventSynchronize", code) if code != 0 else 0
    code = cuda.query_event(event)
    yes[0] = code == 0
    if code == 0 or code == CUDA_NOT_READY:
        return 0
    return cuda_failed(fault, b"cudaEventQuery", code)


cdef int cuda_drain(void *queue, Fault *fault) noexcept nogil:
    cdef int code = cuda.synchronize_stream((<Queue *>queue).stream)
    return cuda_failed(fault, b"cudaStreamSynchronize", code) if code != 0 else 0


cdef int cuda_close(void *queue, Fault *fault) noexcept nogil:
    """The first failure is told; what cannot be released is left behind."""
    cdef Queue *self = <Queue *>queue
    cdef int code, told = 0
    cdef unsigned i
    for i in range(self.n_slots):
        if self.events[i] != NULL:
            code = cuda.destroy_event(self.events[i])
            if code != 0 and told == 0:
                told = cuda_failed(fault, b"cudaEventDestroy", code)
    if self.stream != NULL:
        code = cuda.destroy_stream(self.stream)
        if code != 0 and told == 0:
            told = cuda_failed(fault, b"cudaStreamDestroy", code)
    free(self)
    return told


cdef DeviceOps OPS
OPS.name = b"cuda"
OPS.alignment = 1
OPS.open = cuda_open
OPS.copy = cuda_copy
OPS.copy_now = cuda_copy_now
OPS.record = cuda_record
OPS.arrived = cuda_arrived
OPS.drain = cuda_drain
OPS.close = cuda_close


cdef const DeviceOps *cuda_ops() except NULL:
    need_cuda()
    return &OPS
