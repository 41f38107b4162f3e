/* Pinned host memory. In EP mode it is made of pages that no one can take hold of (memfd_secret), so
 * that direct reads into it fail with EFAULT, as they do into the driver's. */
#define _GNU_SOURCE
#include "host.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "acl_sim.h"
#include "call.h"
#include "device.h"
#include "settings.h"
#include "state.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

static int secret_count, plain_count;

const char *pinned_backing(void)
{
    return secret_count && plain_count ? "mixed"
           : plain_count               ? "plain"
           : secret_count              ? "secret"
                                       : "none";
}

static void *map_secret(size_t nbytes)
{
    int fd = settings.pinned_secret ? (int)syscall(SYS_memfd_secret, O_CLOEXEC) : -1;
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)nbytes) == 0)
        at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return at;
}

static char *map_pinned(size_t nbytes)
{
    char *at = map_secret(nbytes);
    if (at != MAP_FAILED) {
        secret_count++;
    } else {
        at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
        plain_count++;
    }
    madvise(at, nbytes, MADV_DONTFORK);
    return at;
}

static aclError allocate(struct call *call, void **address, size_t nbytes)
{
    GUARD();
    const char *name = call->function->name;
    struct device *device = device_here();
    size_t page = (size_t)sysconf(_SC_PAGESIZE), span = (nbytes + page - 1) & ~(page - 1);
    struct range *range;
    char *start;
    if (!address || nbytes == 0)
        return refuse(call, INVALID_PARAM, "%s: no address to write to, or no bytes", name);
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    if (settings.is_rc) {
        /* The same memory as the device's. */
        start = device_charge(device, span) ? NULL : device_addresses(device, span, page);
    } else {
        start = map_pinned(span);
    }
    if (!start)
        return refuse(call, RT_MEMORY_ALLOCATION, "%s: no memory for %zu bytes", name, nbytes);
    range = range_new(PINNED_MEMORY, device->id, name, start, nbytes);
    range->span = span;
    range->charged = settings.is_rc ? span : 0;
    list_insert(settings.is_rc ? &device->ranges : &host_ranges, range);
    *address = start;
    return done(call);
}

aclError aclrtMallocHost(void **address, size_t nbytes)
{
    CALL("nbytes=%zu", nbytes);
    return allocate(call, address, nbytes);
}

aclError aclrtMallocHostWithCfg(void **address, uint64_t nbytes, void *config)
{
    CALL("nbytes=%llu", (unsigned long long)nbytes);
    (void)config;
    return allocate(call, address, nbytes);
}

aclError aclrtFreeHost(void *address)
{
    CALL("address=%p", address);
    GUARD();
    struct device *device = settings.is_rc ? device_at(address) : NULL;
    struct list *list = device ? &device->ranges : &host_ranges;
    struct range *range = list_find(list, address);
    if (!device_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtFreeHost: " NO_CONTEXT);
    if (!range || range->start != address || range->kind != PINNED_MEMORY)
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtFreeHost: %p is not from aclrtMallocHost, or it was freed before", address);
    range_retire(list, range);
    if (device) {
        device->used -= range->charged;
        device_drop(device, range->start, range->span);
    } else {
        munmap(range->start, range->span);
    }
    range_release(range);
    return done(call);
}
