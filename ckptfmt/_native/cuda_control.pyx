"""What is asked of CUDA's runtime outside the engine's loop: memory, registration, versions."""

import warnings

cimport cython
from libc.stdint cimport uintptr_t

from ckptfmt._native.cuda_symbols cimport (
    CUDA_DEVICE_TO_HOST, CUDA_EVENT_FLAGS, CUDA_HOST_PORTABLE, cuda, cuda_check, cuda_failed,
    need_cuda,
)
from ckptfmt._native.device cimport DeviceOps, Fault, copy_one, raised
from ckptfmt._native.device_cuda cimport cuda_ops

from ckptfmt.errors import CleanupWarning


@cython.final
cdef class Cudart:
    cdef int device
    cdef object guard
    cdef readonly bint undrained

    def __init__(self, device, guard):
        need_cuda()
        self.device = device
        self.guard = guard

    def versions(self):
        cdef int runtime = 0, driver = 0, code
        with nogil:
            code = cuda.runtime_version(&runtime)
        cuda_check(b"cudaRuntimeGetVersion", code)
        with nogil:
            code = cuda.driver_version(&driver)
        cuda_check(b"cudaDriverGetVersion", code)
        return runtime, driver

    def memory(self):
        cdef size_t free_nbytes = 0, total = 0
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.memory_info(&free_nbytes, &total)
            cuda_check(b"cudaMemGetInfo", code)
            return free_nbytes, total

    def register(self, address, nbytes):
        cdef void *pointer = <void *><uintptr_t>address
        cdef size_t c_nbytes = nbytes
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.host_register(pointer, c_nbytes, CUDA_HOST_PORTABLE)
            cuda_check(b"cudaHostRegister", code)

    def unregister(self, address):
        cdef void *pointer = <void *><uintptr_t>address
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.host_unregister(pointer)
            cuda_check(b"cudaHostUnregister", code)

    def malloc_host(self, nbytes):
        cdef void *pointer = NULL
        cdef size_t c_nbytes = nbytes
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.host_alloc(&pointer, c_nbytes, CUDA_HOST_PORTABLE)
            cuda_check(b"cudaHostAlloc", code)
            return <uintptr_t>pointer

    def free_host(self, address):
        cdef void *pointer = <void *><uintptr_t>address
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.free_host(pointer)
            cuda_check(b"cudaFreeHost", code)

    def copy(self, target, source, nbytes, *, to_device):
        cdef void *c_target = <void *><uintptr_t>target
        cdef void *c_source = <void *><uintptr_t>source
        cdef size_t c_nbytes = nbytes
        cdef int code
        if to_device:                        # which cudaMemcpy need not wait for
            self.copy_async(target, source, nbytes)
            return
        with self.guard():
            with nogil:
                code = cuda.memcpy(c_target, c_source, c_nbytes, CUDA_DEVICE_TO_HOST)
            cuda_check(b"cudaMemcpy", code)

    def copy_async(self, target, source, nbytes):
        cdef void *c_target = <void *><uintptr_t>target
        cdef void *c_source = <void *><uintptr_t>source
        cdef size_t c_nbytes = nbytes
        cdef int code, device = self.device
        cdef bint undrained = False, unreleased = False
        cdef Fault fault, second
        cdef const DeviceOps *ops = cuda_ops()
        with self.guard(), nogil:
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
        with self.guard():
            with nogil:
                code = cuda.create_event(&event, CUDA_EVENT_FLAGS)
            cuda_check(b"cudaEventCreateWithFlags", code)
            with nogil:
                code = cuda.record_event(event, c_stream)
            if code != 0:
                cuda_failed(&fault, b"cudaEventRecord", code)
                with nogil:
                    cuda.destroy_event(event)
                raise raised(&fault)
            return <uintptr_t>event

    def synchronize(self, stream):
        cdef void *c_stream = <void *><uintptr_t>stream
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.synchronize_stream(c_stream)
            cuda_check(b"cudaStreamSynchronize", code)

    def destroy_event(self, event):
        cdef void *c_event = <void *><uintptr_t>event
        cdef int code
        with self.guard():
            with nogil:
                code = cuda.destroy_event(c_event)
            cuda_check(b"cudaEventDestroy", code)
