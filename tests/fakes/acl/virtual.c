/* Device addresses and device memory apart: reserve, allocate, map.
 *
 * The bytes belong to the addresses: memory that is mapped elsewhere begins empty. */
#include <stdlib.h>

#include "acl_sim.h"
#include "call.h"
#include "device.h"
#include "handles.h"
#include "state.h"
#include "virtual.h"

aclError aclrtReserveMemAddress(void **address, size_t nbytes, size_t alignment, void *expected,
                                uint64_t flags)
{
    CALL("nbytes=%zu alignment=%zu flags=%llu", nbytes, alignment, (unsigned long long)flags);
    GUARD();
    struct device *device = device_here();
    (void)expected;
    if (!address || nbytes == 0)
        return refuse(call, INVALID_PARAM,
                      "aclrtReserveMemAddress: no address to write to, or no bytes");
    /* torch_npu reserves while it starts up, before any device is set. */
    if (!device && device_count() > 0)
        device = &devices[0];
    if (!device || (!device->base && device_open(device)))
        return refuse(call, RT_MEMORY_ALLOCATION, "aclrtReserveMemAddress: no device to reserve for");
    char *start = device_addresses(device, nbytes, 2 << 20);
    if (!start)
        return refuse(call, RT_MEMORY_ALLOCATION, "aclrtReserveMemAddress: no addresses for %zu bytes",
                      nbytes);
    list_insert(&device->ranges, range_new(RESERVED, device->id, call->function->name, start, nbytes));
    *address = start;
    return done(call);
}

aclError aclrtReleaseMemAddress(void *address)
{
    CALL("address=%p", address);
    GUARD();
    struct device *device = device_at(address);
    struct range *range = device ? list_find(&device->ranges, address) : NULL;
    if (!range || range->start != address || range->kind != RESERVED)
        return refuse(call, RT_PARAM_INVALID, "aclrtReleaseMemAddress: %p is not reserved", address);
    if (list_touches(&device->mapped, range->start, range->nbytes))
        return refuse(call, RT_PARAM_INVALID, "aclrtReleaseMemAddress: memory is mapped there still");
    range_retire(&device->ranges, range);
    range_release(range);
    return done(call);
}

aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t nbytes, const void *properties,
                             uint64_t flags)
{
    CALL("nbytes=%zu flags=%llu", nbytes, (unsigned long long)flags);
    GUARD();
    struct device *device = device_here();
    (void)properties;
    if (!handle || nbytes == 0)
        return refuse(call, INVALID_PARAM, "aclrtMallocPhysical: nowhere to write to, or no bytes");
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "aclrtMallocPhysical: " NO_CONTEXT);
    if (device_charge(device, nbytes))
        return refuse(call, RT_MEMORY_ALLOCATION, "aclrtMallocPhysical: %zu bytes asked for, %llu free",
                      nbytes, (unsigned long long)(device->memory - device->used));
    struct physical *physical = calloc(1, sizeof *physical);
    if (!physical)
        abort();
    physical->device = device->id;
    physical->nbytes = nbytes;
    handles_add(physical, PHYSICAL);
    *handle = physical;
    return done(call);
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle)
{
    CALL("handle=%p", handle);
    GUARD();
    struct physical *physical = handle;
    if (!handles_have(handle, PHYSICAL))
        return refuse(call, RT_INVALID_HANDLE, "aclrtFreePhysical: %p is no memory, or not any more",
                      handle);
    devices[physical->device].used -= physical->nbytes;
    handles_remove(handle);
    free(physical);
    return done(call);
}

aclError aclrtMapMem(void *address, size_t nbytes, size_t offset, aclrtDrvMemHandle handle,
                     uint64_t flags)
{
    CALL("address=%p nbytes=%zu offset=%zu flags=%llu", address, nbytes, offset,
         (unsigned long long)flags);
    GUARD();
    struct physical *physical = handle;
    struct device *device = device_at(address);
    struct range *reserved = device ? list_find(&device->ranges, address) : NULL;
    if (!handles_have(handle, PHYSICAL))
        return refuse(call, RT_INVALID_HANDLE, "aclrtMapMem: %p is no memory", handle);
    if (!reserved || reserved->kind != RESERVED || nbytes == 0 ||
        (char *)address + nbytes > reserved->start + reserved->nbytes)
        return refuse(call, RT_PARAM_INVALID, "aclrtMapMem: %p is not reserved", address);
    if (offset || nbytes > physical->nbytes || physical->device != device->id)
        return refuse(call, RT_PARAM_INVALID, "aclrtMapMem: the memory is smaller, or another device's");
    if (list_touches(&device->mapped, address, nbytes))
        return refuse(call, RT_PARAM_INVALID, "aclrtMapMem: memory is mapped there already");
    list_insert(&device->mapped, range_new(MAPPED, device->id, call->function->name, address, nbytes));
    return done(call);
}

aclError aclrtUnmapMem(void *address)
{
    CALL("address=%p", address);
    GUARD();
    struct device *device = device_at(address);
    struct range *range = device ? list_find(&device->mapped, address) : NULL;
    if (!range || range->start != address)
        return refuse(call, RT_PARAM_INVALID, "aclrtUnmapMem: nothing is mapped at %p", address);
    range_retire(&device->mapped, range);
    device_drop(device, range->start, range->nbytes);
    range_release(range);
    return done(call);
}

aclError aclrtMemGetAllocationGranularity(void *properties, int option, size_t *nbytes)
{
    CALL("option=%d", option);
    (void)properties;
    if (!nbytes)
        return refuse(call, INVALID_PARAM, "aclrtMemGetAllocationGranularity: nowhere to write to");
    *nbytes = 2 << 20;
    return done(call);
}
