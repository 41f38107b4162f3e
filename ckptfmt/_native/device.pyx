"""What any runtime's table serves outside the engine's loop."""

from libc.stdint cimport uintptr_t

import ctypes

from ckptfmt.device_errors import device_error


cdef list fill_table(void *table, list names, object library):
    """Look functions up for a table: (name, offset in it, whether it must be there) each.

    Those that are missing and must not be are returned; what is missing is NULL.
    """
    missing = []
    cdef uintptr_t found
    cdef size_t offset
    for name, offset, needed in names:
        try:
            found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except AttributeError:
            found = 0
            if needed:
                missing.append(name)
        (<uintptr_t *>(<char *>table + offset))[0] = found
    return missing


cdef object raised(const Fault *fault):
    """The exception for what a device's function noted."""
    return device_error(
        fault.call.decode(), fault.code, fault.message.decode(errors="replace"))


cdef int copy_one(const DeviceOps *ops, int device, void *target, const void *source, size_t nbytes,
                  Fault *fault, Fault *second, bint *undrained, bint *unreleased) noexcept nogil:
    """Queue one copy on a stream of its own, as the engine's are, and wait for it.

    1 after a failure, which `fault` tells; `second` tells what could not be released.
    """
    cdef void *queue = NULL
    cdef bint yes = False
    cdef int code = ops.open(&queue, device, NULL, 1, fault)
    undrained[0] = unreleased[0] = False
    if code != 0:
        return code
    code = ops.copy(queue, target, nbytes, source, nbytes, fault)
    if code == 0:
        code = ops.record(queue, 0, fault)
    if code == 0:
        code = ops.arrived(queue, 0, True, &yes, fault)
    # As in `lane_close`: waiting may tell of a failure once, and be over all the same.
    if ops.drain(queue, second) != 0:
        if code == 0:
            code = 1
            fault[0] = second[0]
        undrained[0] = ops.drain(queue, second) != 0
    if not undrained[0]:
        unreleased[0] = ops.close(queue, second) != 0
    return code
