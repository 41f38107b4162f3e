/* Devices: which there are, their addresses and memory. */
#define _GNU_SOURCE
#include "device.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

struct device devices[MAX_DEVICES];
static int count;

static const size_t huge = 2 << 20;

/* "0,2,3": which physical devices there are, in order; what follows a bad entry does not count. */
static void read_visible(const char *text)
{
    long last = -1;
    count = 0;
    while (count < settings.devices) {
        char *end;
        long id = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
        if (id <= last || id >= settings.devices || (*end != 0 && *end != ','))
            break;
        devices[count++].physical = (int)(last = id);
        if (*end == 0)
            break;
        text = end + 1;
    }
}

__attribute__((constructor(202))) static void find_devices(void)
{
    const char *visible = getenv("ASCEND_RT_VISIBLE_DEVICES");
    count = settings.devices;
    for (int i = 0; i < count; i++)
        devices[i].physical = i;
    if (visible)
        read_visible(visible);
    for (int i = 0; i < count; i++) {
        devices[i].id = i;
        devices[i].memory = settings.memory;
        devices[i].primary.device = &devices[i];
        devices[i].primary.is_primary = 1;
        devices[i].primary.call = "aclrtSetDevice";
    }
}

int device_count(void)
{
    return count;
}

static char *map(size_t nbytes, int access, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED | MAP_NORESERVE;
    char *at = mmap(NULL, nbytes, access, flags, fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    /* As the driver's: not there in a child of fork. */
    madvise(at, nbytes, MADV_DONTFORK);
    madvise(at, nbytes, MADV_DONTDUMP);
    return at;
}

/* The memory: anonymous, or a file whose pages a test can tell from its own. */
static char *map_bytes(struct device *device, size_t nbytes)
{
    char name[32], *at;
    int fd = -1;
    snprintf(name, sizeof name, "aclsim-device%d", device->physical);
    if (settings.backing == MEMFD)
        fd = memfd_create(name, MFD_CLOEXEC);
    else if (settings.backing == SECRET)
        fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    if (settings.backing != ANONYMOUS && (fd < 0 || ftruncate(fd, (off_t)nbytes) != 0)) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    at = map(nbytes, PROT_READ | PROT_WRITE, fd);
    if (at && fd < 0)
        madvise(at, nbytes, MADV_HUGEPAGE);
    if (fd >= 0)
        close(fd);
    return at;
}

int device_open(struct device *device)
{
    /* More addresses than memory: none is used again soon, and they do not run out in pieces. The
     * first ones are left out, so that a step below an allocation is one into the device as well. */
    size_t extent = (device->memory * 4 + 2 * huge) & ~(huge - 1), mapped = extent + huge;
    char *bytes = map_bytes(device, mapped), *base = bytes;
    if (!bytes)
        return -1;
    if (!settings.is_rc && !(base = map(mapped, PROT_NONE, -1))) {
        munmap(bytes, mapped);
        return -1;
    }
    char *aligned = (char *)(((uintptr_t)base + huge - 1) & ~(uintptr_t)(huge - 1));
    /* Whole huge pages on both sides. */
    char *aligned_bytes = (char *)(((uintptr_t)bytes + huge - 1) & ~(uintptr_t)(huge - 1));
    device->base = aligned;
    device->next = aligned + huge;
    device->extent = extent;
    device->distance = aligned_bytes - aligned;
    if (settings.populate)
        madvise(aligned_bytes + huge,
                settings.populate < extent - huge ? settings.populate : extent - huge,
                MADV_POPULATE_WRITE);
    return 0;
}

struct device *device_at(const void *address)
{
    const char *at = address;
    for (int i = 0; i < count; i++)
        if (devices[i].base && at >= devices[i].base && at < devices[i].base + devices[i].extent)
            return &devices[i];
    return NULL;
}

static char *align_up(char *at, size_t alignment)
{
    return (char *)(((uintptr_t)at + alignment - 1) & ~(uintptr_t)(alignment - 1));
}

char *device_addresses(struct device *device, size_t nbytes, size_t alignment)
{
    const struct list *list = &device->ranges;
    char *end = device->base + device->extent;
    for (int turn = 0; turn < 2; turn++) {
        char *at = turn == 0 ? device->next : device->base + huge;
        struct range *inside = list_find(list, at);
        if (inside)
            at = inside->start + inside->span;
        for (size_t i = list_after(list, at);; i++) {
            char *limit = i < list->count ? list->items[i]->start : end;
            at = align_up(at, alignment);
            if (at <= limit && nbytes <= (size_t)(limit - at)) {
                device->next = at + nbytes;
                return at;
            }
            if (i >= list->count)
                break;
            at = list->items[i]->start + list->items[i]->span;
        }
    }
    return NULL;
}

void device_drop(struct device *device, char *start, size_t nbytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)start + (uintptr_t)device->distance + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)start + (uintptr_t)device->distance + nbytes) & ~(page - 1);
    if (last > first)
        madvise((void *)first, last - first,
                settings.backing == ANONYMOUS ? MADV_DONTNEED : MADV_REMOVE);
}

int device_charge(struct device *device, size_t nbytes)
{
    if (nbytes > device->memory - device->used)
        return -1;
    device->used += nbytes;
    if (device->used > device->peak)
        device->peak = device->used;
    return 0;
}
