/* Bytes on their way from one place to another. */
#ifndef MOVE_H
#define MOVE_H

#include <stddef.h>
#include <stdint.h>

#include "call.h"
#include "link.h"
#include "range.h"
#include "stream.h"

/* One end of a copy. */
struct side {
    char *at;               /* the address that the caller gave */
    char *bytes;            /* where its bytes lie */
    struct range *range;    /* what it belongs to, a reference; NULL: memory the runtime knows nothing of */
    struct device *device;  /* NULL: the host's */
};

struct move {
    struct side dst, src;
    size_t nbytes;
    enum direction direction;
    struct device *link;    /* the device whose link it takes */
    const char *call;
    int is_corrupt;         /* unpinned memory, on its own: garbage arrives */
};

enum { POISON = 0xDB };

/* With the lock: what is at an address, checked to be one piece of memory. Nonzero after a refusal. */
int side_find(struct call *call, const char *which, const void *address, size_t nbytes, struct side *side);
/* With the lock: keep its range from being forgotten, or not any more. */
void side_hold(struct side *side);
void side_release(struct side *side);
/* Is it host memory that a device can copy from on its own? */
int side_is_pinned(const struct side *side);
/* With the lock: has its memory been freed, unregistered or unmapped since? */
int side_is_gone(const struct side *side, size_t nbytes);

/* Without the lock: move all bytes, none of them before `ready`. The moment when, by the link, the last
 * one was over; 0 if no link was used. */
uint64_t move_bytes(struct move *move, int stream, uint64_t ready);
/* Without the lock: write garbage over bytes that are there, or are not. */
void poison(const struct side *side, size_t offset, size_t nbytes);

#endif
