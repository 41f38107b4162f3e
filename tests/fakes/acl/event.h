/* What the account tells of an event. */
#ifndef EVENT_H
#define EVENT_H

#include <stdint.h>

#include "stream.h"

struct mark;

struct event {
    const struct context *context;  /* only to compare: it may be gone */
    const char *call;
    int device;
    uint32_t flags;
    int is_ex;                      /* of aclrtCreateEventExWithFlag: recorded again, never reset */
    struct mark *mark;              /* NULL: never recorded */
};

#endif
