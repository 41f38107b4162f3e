/* Memory without addresses, from aclrtMallocPhysical. */
#ifndef VIRTUAL_H
#define VIRTUAL_H

#include <stddef.h>

struct physical {
    int device;
    size_t nbytes;
};

#endif
