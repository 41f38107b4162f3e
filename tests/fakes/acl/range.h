/* Ranges of addresses that the runtime knows: allocations, reservations, registered host memory.
 *
 * All with the lock. */
#ifndef RANGE_H
#define RANGE_H

#include <stddef.h>
#include <stdint.h>

enum range_kind {
    DEVICE_MEMORY,      /* aclrtMalloc */
    PINNED_MEMORY,      /* aclrtMallocHost */
    REGISTERED_MEMORY,  /* aclrtHostRegister */
    RESERVED,           /* aclrtReserveMemAddress: addresses without memory */
    MAPPED,             /* aclrtMapMem: a part of a reservation that has memory */
    ALIAS,              /* what a device calls registered memory; no copy may use it */
};

struct range {
    char *start;
    size_t nbytes;          /* what was asked for: no copy may go beyond */
    size_t span;            /* addresses taken */
    size_t charged;         /* device memory taken */
    enum range_kind kind;
    int device;
    const char *call;       /* the function that made it */
    uint64_t serial;
    struct range *alias;
    int refs;               /* one of the list, one of each queued copy */
    int users;              /* copies that move its bytes at this moment */
    int is_gone;            /* freed or unregistered */
};

struct list {
    struct range **items;   /* by address */
    size_t count, room;
};

struct range *range_new(enum range_kind kind, int device, const char *call, void *start, size_t nbytes);
/* Give a reference back; the last one frees. */
void range_release(struct range *range);
/* Take it off its list and mark it gone. Waits until no copy is at its bytes. */
void range_retire(struct list *list, struct range *range);

void list_insert(struct list *list, struct range *range);
/* The range that has this address, or NULL. */
struct range *list_find(const struct list *list, const void *address);
/* The first range that starts behind this address: its index. */
size_t list_after(const struct list *list, const void *address);
/* Is any of these bytes in a range? */
int list_touches(const struct list *list, const void *address, size_t nbytes);

/* Pinned and registered memory of the host. */
extern struct list host_ranges;

#endif
