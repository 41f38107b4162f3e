/* A sorted array of the handles that are valid. */
#include "handles.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    uintptr_t handle;
    enum handle_kind kind;
};

static struct entry *entries;
static size_t count, room;

/* Where a handle is, or would be. */
static size_t position_of(uintptr_t handle)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (entries[middle].handle < handle)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void handles_add(void *handle, enum handle_kind kind)
{
    size_t at = position_of((uintptr_t)handle);
    if (count == room) {
        room = room ? room * 2 : 64;
        entries = realloc(entries, room * sizeof *entries);
        if (!entries)
            abort();
    }
    memmove(entries + at + 1, entries + at, (count++ - at) * sizeof *entries);
    entries[at] = (struct entry){(uintptr_t)handle, kind};
}

int handles_have(const void *handle, enum handle_kind kind)
{
    size_t at = position_of((uintptr_t)handle);
    return at < count && entries[at].handle == (uintptr_t)handle && entries[at].kind == kind;
}

void handles_remove(const void *handle)
{
    size_t at = position_of((uintptr_t)handle);
    if (at < count && entries[at].handle == (uintptr_t)handle)
        memmove(entries + at, entries + at + 1, (--count - at) * sizeof *entries);
}

void *handles_next(enum handle_kind kind, size_t *position)
{
    while (*position < count) {
        struct entry *entry = &entries[(*position)++];
        if (entry->kind == kind)
            return (void *)entry->handle;
    }
    return NULL;
}
