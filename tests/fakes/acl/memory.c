/* Device memory: allocate, free, ask. */
#include <string.h>
#include <unistd.h>

#include "acl_sim.h"
#include "account.h"
#include "call.h"
#include "device.h"
#include "settings.h"
#include "state.h"

static aclError allocate(struct call *call, void **address, size_t nbytes, size_t extra)
{
    GUARD();
    const char *name = call->function->name;
    struct device *device = device_here();
    if (!address || nbytes == 0)
        return refuse(call, INVALID_PARAM, "%s: no address to write to, or no bytes", name);
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    size_t charged = ((nbytes + 31) & ~(size_t)31) + extra;
    if (charged < nbytes || device_charge(device, charged) != 0)
        return refuse(call, RT_MEMORY_ALLOCATION, "%s: %zu bytes asked for, %llu of %llu free", name,
                      nbytes, (unsigned long long)(device->memory - device->used),
                      (unsigned long long)device->memory);
    /* Large ones own their huge pages, so that freeing them gives the memory back. */
    size_t alignment = charged >= 2 << 20 ? 2 << 20 : 512;
    char *start = device_addresses(device, charged, alignment);
    if (!start) {
        device->used -= charged;
        return refuse(call, RT_MEMORY_ALLOCATION, "%s: no addresses left for %zu bytes", name, nbytes);
    }
    struct range *range = range_new(DEVICE_MEMORY, device->id, name, start, nbytes);
    range->span = range->charged = charged;
    list_insert(&device->ranges, range);
    *address = start;
    return done(call);
}

aclError aclrtMalloc(void **address, size_t nbytes, int policy)
{
    CALL("nbytes=%zu policy=%d", nbytes, policy);
    return allocate(call, address, nbytes, 32);
}

aclError aclrtMallocAlign32(void **address, size_t nbytes, int policy)
{
    CALL("nbytes=%zu policy=%d", nbytes, policy);
    return allocate(call, address, nbytes, 0);
}

aclError aclrtFree(void *address)
{
    CALL("address=%p", address);
    GUARD();
    if (!device_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtFree: " NO_CONTEXT);
    struct device *device = device_at(address);
    struct range *range = device ? list_find(&device->ranges, address) : NULL;
    if (!range || range->start != address || range->kind != DEVICE_MEMORY)
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtFree: %p is not the start of device memory, or it was freed before",
                      address);
    range_retire(&device->ranges, range);
    device->used -= range->charged;
    device_drop(device, range->start, range->span);
    range_release(range);
    return done(call);
}

aclError aclrtGetMemInfo(int attribute, size_t *free_nbytes, size_t *total_nbytes)
{
    CALL("attribute=%d", attribute);
    GUARD();
    struct device *device = device_here();
    if (!free_nbytes || !total_nbytes)
        return refuse(call, INVALID_PARAM, "aclrtGetMemInfo: an argument is NULL");
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "aclrtGetMemInfo: " NO_CONTEXT);
    *free_nbytes = device->memory - device->used;
    *total_nbytes = device->memory;
    return done(call);
}

aclError aclrtPointerGetAttributes(const void *address, struct pointer_attributes *attributes)
{
    CALL("address=%p", address);
    GUARD();
    struct device *device = device_at(address);
    if (!address || !attributes)
        return refuse(call, INVALID_PARAM, "aclrtPointerGetAttributes: an argument is NULL");
    if (!device_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtPointerGetAttributes: " NO_CONTEXT);
    struct range *range = list_find(device ? &device->ranges : &host_ranges, address);
    memset(attributes, 0, sizeof *attributes);
    attributes->page_nbytes = (uint32_t)sysconf(_SC_PAGESIZE);
    if (range) {
        attributes->location.id = (uint32_t)range->device;
        attributes->location.type = device && range->kind != PINNED_MEMORY ? LOCATION_DEVICE
                                                                           : LOCATION_HOST;
    } else if (cann_number >= CANN(8, 5, 0)) {
        attributes->location.type = LOCATION_UNREGISTERED;
    } else {
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtPointerGetAttributes: %p is in no memory of the runtime's", address);
    }
    return done(call);
}
