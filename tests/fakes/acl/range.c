/* Ranges, sorted by address. */
#include "range.h"

#include <stdlib.h>
#include <string.h>

#include "state.h"

struct list host_ranges;

struct range *range_new(enum range_kind kind, int device, const char *call, void *start, size_t nbytes)
{
    static uint64_t serial;
    struct range *range = calloc(1, sizeof *range);
    if (!range)
        abort();
    range->kind = kind;
    range->device = device;
    range->call = call;
    range->start = start;
    range->nbytes = range->span = nbytes;
    range->serial = ++serial;
    range->refs = 1;
    return range;
}

void range_release(struct range *range)
{
    if (range && --range->refs == 0)
        free(range);
}

void range_retire(struct list *list, struct range *range)
{
    size_t at = list_after(list, range->start) - 1;
    memmove(list->items + at, list->items + at + 1, (--list->count - at) * sizeof *list->items);
    range->is_gone = 1;
    while (range->users > 0)
        wait_for_progress(0);
}

void list_insert(struct list *list, struct range *range)
{
    size_t at = list_after(list, range->start);
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 64;
        list->items = realloc(list->items, list->room * sizeof *list->items);
        if (!list->items)
            abort();
    }
    memmove(list->items + at + 1, list->items + at, (list->count++ - at) * sizeof *list->items);
    list->items[at] = range;
}

size_t list_after(const struct list *list, const void *address)
{
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (list->items[middle]->start <= (const char *)address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct range *list_find(const struct list *list, const void *address)
{
    size_t at = list_after(list, address);
    if (at == 0)
        return NULL;
    struct range *range = list->items[at - 1];
    return (const char *)address < range->start + range->span ? range : NULL;
}

int list_touches(const struct list *list, const void *address, size_t nbytes)
{
    size_t at = list_after(list, address);
    if (list_find(list, address))
        return 1;
    return at < list->count && list->items[at]->start < (const char *)address + nbytes;
}
