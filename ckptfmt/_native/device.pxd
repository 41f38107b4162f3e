# One table of copy functions; each accelerator's runtime fills one, and one loop serves all.
#
# A worker owns what `open` gives and calls the rest from its own thread. Functions return 0, or
# fill in the fault and return 1.

cdef enum:
    MESSAGE = 512

cdef struct Fault:
    int code                  # the runtime's own
    const char *call          # which of its functions
    char message[MESSAGE]     # what it said, if anything

cdef struct DeviceOps:
    const char *name
    # What both ends of a queued copy have to be multiples of; others are waited for.
    size_t alignment
    # A stream of this thread's own and an event for each slot. What is queued waits for the event
    # `after`, which may be NULL.
    int (*open)(void **queue, int device, void *after, unsigned slots, Fault *fault) noexcept nogil
    # Queue a copy to the device. The source stays as it is until the slot's event has come.
    int (*copy)(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                Fault *fault) noexcept nogil
    # Copy, and wait until it has landed.
    int (*copy_now)(void *queue, void *target, size_t room, const void *source, size_t nbytes,
                    Fault *fault) noexcept nogil
    # Have the slot's event come when all that is queued has landed.
    int (*record)(void *queue, unsigned slot, Fault *fault) noexcept nogil
    # Whether the slot's event has come; with `block`, once it has.
    int (*arrived)(void *queue, unsigned slot, bint block, bint *yes, Fault *fault) noexcept nogil
    # Wait for everything queued. Unless it returns 0, the device may still read and write.
    int (*drain)(void *queue, Fault *fault) noexcept nogil
    # Release stream and events; only when nothing is queued. May fail, and then leaks.
    int (*close)(void *queue, Fault *fault) noexcept nogil

cdef object raised(const Fault *fault)
cdef list fill_table(void *table, list names, object library)
cdef int copy_one(const DeviceOps *ops, int device, void *target, const void *source, size_t nbytes,
                  Fault *fault, Fault *second, bint *undrained, bint *unreleased) noexcept nogil
