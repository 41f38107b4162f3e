/* A device: its addresses, its memory, its links to the host.
 *
 * Addresses that tests see have no access rights in EP mode; the bytes lie `distance` above them. In
 * RC mode the distance is 0. All with the lock. */
#ifndef DEVICE_H
#define DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "range.h"
#include "settings.h"

enum { MAX_STREAMS = 1984, MAX_EVENTS = 65536 };

struct stream;
struct device;

struct context {
    struct device *device;
    struct stream *fallback;    /* the stream that NULL means; made at its first use */
    const char *call;
    int is_primary, is_active;
};

struct device {
    int id, physical;
    char *base;                 /* NULL before the first aclrtSetDevice */
    size_t extent;
    ptrdiff_t distance;
    char *next;                 /* where to look for free addresses */
    struct list ranges;         /* allocations, reservations, aliases */
    struct list mapped;         /* memory in reservations */
    uint64_t memory, used, peak;
    uint64_t link_free[2];      /* when each link is free again: to the device, from it */
    uint64_t link_nbytes[2];
    int references;             /* aclrtSetDevice less aclrtResetDevice */
    int streams, events;
    int is_starting;            /* in its first aclrtSetDevice */
    uint32_t peers;             /* devices it may copy to */
    struct context primary;
};

extern struct device devices[MAX_DEVICES];
/* Those that ASCEND_RT_VISIBLE_DEVICES leaves. */
int device_count(void);
/* Reserve its addresses. Nonzero: the system refuses. */
int device_open(struct device *device);
/* The device that has this address, or NULL. */
struct device *device_at(const void *address);

/* Addresses that are not in use, or NULL. */
char *device_addresses(struct device *device, size_t nbytes, size_t alignment);
/* Give the memory below these addresses back to the system. */
void device_drop(struct device *device, char *start, size_t nbytes);
/* Memory of a device: taken, or refused (nonzero). */
int device_charge(struct device *device, size_t nbytes);

/* The device of this thread's context, or NULL. */
struct device *device_here(void);
struct context *context_here(void);

#define NO_CONTEXT "this thread has no context: call aclrtSetDevice on it first"

#endif
