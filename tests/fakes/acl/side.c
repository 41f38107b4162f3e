/* What is at an address: whose, pinned or not, and whether all of it is there. */
#include "acl_sim.h"
#include "move.h"
#include "settings.h"

/* Does memory lie at all these addresses of a reservation? */
static int is_mapped(const struct device *device, const char *at, size_t nbytes)
{
    const char *last = at + nbytes;
    while (at < last) {
        const struct range *range = list_find(&device->mapped, at);
        if (!range)
            return 0;
        at = range->start + range->nbytes;
    }
    return 1;
}

static int on_device(struct call *call, const char *which, size_t nbytes, struct side *side)
{
    const char *name = call->function->name;
    struct range *range = list_find(&side->device->ranges, side->at);
    if (!range || range->kind == ALIAS)
        return refuse(call, RT_PARAM_INVALID, "%s: the %s %p is %s", name, which, (void *)side->at,
                      range ? "the device's name of registered memory, which no copy can use"
                            : "device memory that is not allocated, or was freed");
    if (range->kind == RESERVED && !is_mapped(side->device, side->at, nbytes))
        return refuse(call, RT_PARAM_INVALID, "%s: the %s %p is reserved, but no memory is mapped there",
                      name, which, (void *)side->at);
    if (nbytes > (size_t)(range->start + range->nbytes - side->at))
        return refuse(call, RT_PARAM_INVALID,
                      "%s: the %s %p with %zu bytes leaves its allocation, %zu bytes from %p on", name,
                      which, (void *)side->at, nbytes, range->nbytes, (void *)range->start);
    side->range = range;
    side->bytes = side->at + side->device->distance;
    if (range->kind == PINNED_MEMORY)
        side->device = NULL;
    return 0;
}

int side_find(struct call *call, const char *which, const void *address, size_t nbytes,
              struct side *side)
{
    *side = (struct side){.at = (char *)(uintptr_t)address, .device = device_at(address)};
    if (side->device)
        return on_device(call, which, nbytes, side);
    struct range *range = list_find(&host_ranges, address);
    side->bytes = side->at;
    if (!range)
        return 0;
    int is_inside = side->at < range->start + range->nbytes &&
                    nbytes <= (size_t)(range->start + range->nbytes - side->at);
    if (!is_inside && range->kind == PINNED_MEMORY)
        return refuse(call, RT_PARAM_INVALID,
                      "%s: the %s %p with %zu bytes leaves its allocation, %zu bytes from %p on",
                      call->function->name, which, address, nbytes, range->nbytes, (void *)range->start);
    if (is_inside)
        side->range = range;
    return 0;
}

void side_hold(struct side *side)
{
    if (side->range)
        side->range->refs++;
}

void side_release(struct side *side)
{
    range_release(side->range);
    side->range = NULL;
}

int side_is_pinned(const struct side *side)
{
    return side->range != NULL;
}

int side_is_gone(const struct side *side, size_t nbytes)
{
    if (!side->range)
        return 0;
    if (side->range->kind == RESERVED && !is_mapped(side->device, side->at, nbytes))
        return 1;
    return side->range->is_gone;
}
