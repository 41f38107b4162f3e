/* Host memory of the caller's that a device may copy from without waiting. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "acl_sim.h"
#include "call.h"
#include "device.h"
#include "settings.h"
#include "state.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Ascend910B1 … and Ascend910_93…; neither 310B, 310P and 910A, nor the older 910B without a number. */
static int chip_can_register(void)
{
    const char *soc = settings.soc;
    if (strncmp(soc, "Ascend910B", 10) == 0)
        return isdigit((unsigned char)soc[10]) != 0;
    return strncmp(soc, "Ascend910_93", 12) == 0 || strncmp(soc, "Ascend950", 9) == 0;
}

/* Is a mapping one of memory? Files have a path; these only look as if they had. */
static int is_memory(const char *path)
{
    static const char *const prefixes[] = {
        "[", "/dev/zero", "/memfd:", "/dev/shm/", "/SYSV", "/anon_hugepage"};
    if (*path == 0)
        return 1;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
            return 1;
    return 0;
}

/* Can the driver hold all these pages? They are mapped, writable and no file's. NULL, or why not. */
static const char *why_not(const char *start, size_t nbytes)
{
    const char *reason = "a part of it is not mapped";
    uintptr_t at = (uintptr_t)start, last = at + nbytes;
    char line[4352];
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return "/proc/self/maps cannot be read";
    while (at < last && fgets(line, sizeof line, maps)) {
        unsigned long long low, high;
        char access[8], path[4096] = "";
        if (sscanf(line, "%llx-%llx %7s %*s %*s %*s %4095[^\n]", &low, &high, access, path) < 3 ||
            high <= at)
            continue;
        if (low > at)
            break;
        if (access[0] != 'r' || access[1] != 'w') {
            reason = "a part of it cannot be written";
            break;
        }
        if (!is_memory(path)) {
            reason = "a part of it is a file's";
            break;
        }
        at = high;
    }
    fclose(maps);
    return at >= last ? NULL : reason;
}

static aclError add(struct call *call, void *address, uint64_t nbytes, void **device_address)
{
    GUARD();
    const char *name = call->function->name, *reason;
    struct device *device = device_here();
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    if (!chip_can_register())
        return refuse(call, RT_FEATURE_NOT_SUPPORT, "%s: not on %s", name, settings.soc);
    if (!address || nbytes == 0 || (uintptr_t)address % page || nbytes % page)
        return refuse(call, RT_DRV_INTERNAL_ERROR,
                      "%s: address %p and size %llu have to be multiples of the page, %zu", name,
                      address, (unsigned long long)nbytes, (size_t)page);
    if (list_touches(&host_ranges, address, nbytes))
        return refuse(call, HOST_MEMORY_ALREADY_REGISTERED,
                      "%s: all or a part of %p is registered or pinned already", name, address);
    if ((reason = why_not(address, nbytes)))
        return refuse(call, RT_DRV_INTERNAL_ERROR, "%s: %p: %s", name, address, reason);
    /* The driver holds the pages: they are there from now on. */
    madvise(address, nbytes, MADV_POPULATE_WRITE);
    char *alias = device_addresses(device, nbytes, page);
    if (!alias)
        return refuse(call, RT_MEMORY_ALLOCATION, "%s: no device addresses left", name);
    struct range *range = range_new(REGISTERED_MEMORY, device->id, name, address, nbytes);
    range->alias = range_new(ALIAS, device->id, name, alias, nbytes);
    list_insert(&host_ranges, range);
    list_insert(&device->ranges, range->alias);
    if (device_address)
        *device_address = alias;
    return done(call);
}

aclError aclrtHostRegister(void *address, uint64_t nbytes, int type, void **device_address)
{
    CALL("address=%p nbytes=%llu type=%d", address, (unsigned long long)nbytes, type);
    if (!device_address)
        return refuse(call, INVALID_PARAM,
                      "aclrtHostRegister: nowhere to write the device's address to");
    if (type != 0)
        return refuse(call, RT_FEATURE_NOT_SUPPORT, "aclrtHostRegister: type %d, only MAPPED is known",
                      type);
    return add(call, address, nbytes, device_address);
}

aclError aclrtHostRegisterV2(void *address, uint64_t nbytes, uint32_t flags)
{
    CALL("address=%p nbytes=%llu flags=%u", address, (unsigned long long)nbytes, flags);
    if ((flags & ~(uint32_t)REGISTER_PINNED) != REGISTER_MAPPED)
        return refuse(call, RT_FEATURE_NOT_SUPPORT,
                      "aclrtHostRegisterV2: flags 0x%x, only MAPPED (0x2) is known, with PINNED or not",
                      flags);
    return add(call, address, nbytes, NULL);
}

static struct range *registered(const void *address)
{
    struct range *range = list_find(&host_ranges, address);
    return range && range->start == address && range->kind == REGISTERED_MEMORY ? range : NULL;
}

aclError aclrtHostUnregister(void *address)
{
    CALL("address=%p", address);
    GUARD();
    struct range *range = registered(address);
    if (!device_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtHostUnregister: " NO_CONTEXT);
    if (!range)
        return refuse(call, HOST_MEMORY_NOT_REGISTERED, "aclrtHostUnregister: %p is not registered",
                      address);
    range_retire(&devices[range->device].ranges, range->alias);
    range_release(range->alias);
    range->alias = NULL;
    range_retire(&host_ranges, range);
    range_release(range);
    return done(call);
}

aclError aclrtHostGetDevicePointer(void *address, void **device_address, uint32_t flag)
{
    CALL("address=%p flag=%u", address, flag);
    GUARD();
    struct range *range = registered(address);
    if (!device_address || flag != 0)
        return refuse(call, INVALID_PARAM, "aclrtHostGetDevicePointer: nowhere to write to, or a flag");
    if (!range)
        return refuse(call, HOST_MEMORY_NOT_REGISTERED,
                      "aclrtHostGetDevicePointer: %p is not registered", address);
    *device_address = range->alias->start;
    return done(call);
}
