/* Copies as callers ask for them. */
#ifndef COPY_H
#define COPY_H

#include "acl_sim.h"
#include "move.h"

struct request {
    void *dst;
    const void *src;
    size_t room, nbytes;
    int kind;
};

/* With the lock: check a copy. Nonzero after a refusal; else both ends are known, but not held. */
int move_find(struct call *call, struct move *move, const struct request *request);
/* Without the lock: move the bytes of a move that is held, and let it go. */
void move_now(struct move *move);
/* With the lock: let it go. */
void move_release(struct move *move);
/* Without the lock: queue a copy. Nonzero after a refusal, else the call has yet to be ended. */
int copy_async(struct call *call, const struct request *request, aclrtStream stream, int waits_if_unpinned);

#endif
