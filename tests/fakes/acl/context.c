/* Contexts, which threads have, and the devices they stand for. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "acl_sim.h"
#include "call.h"
#include "device.h"
#include "handles.h"
#include "start.h"
#include "state.h"
#include "stream.h"

static _Thread_local struct context *current;

struct context *context_here(void)
{
    if (!current)
        return NULL;
    for (int i = 0; i < device_count(); i++)
        if (current == &devices[i].primary)
            return current->is_active && is_initialized() ? current : NULL;
    return handles_have(current, CONTEXT) && is_initialized() ? current : NULL;
}

struct device *device_here(void)
{
    struct context *context = context_here();
    return context ? context->device : NULL;
}

aclError aclrtGetDeviceCount(uint32_t *count)
{
    CALL(" ");
    if (!count)
        return refuse(call, INVALID_PARAM, "aclrtGetDeviceCount: the count is NULL");
    *count = (uint32_t)device_count();
    return done(call);
}

/* A device that may be used, its addresses reserved; NULL after a refusal, which `code` gets. */
static struct device *take_device(struct call *call, int32_t id, int *code)
{
    if (!is_initialized()) {
        *code = refuse(call, UNINITIALIZE, "%s: aclInit has not been called", call->function->name);
        return NULL;
    }
    if (id < 0 || id >= device_count()) {
        *code = refuse(call, RT_INVALID_DEVICEID, "%s: there is no device %d, but %d devices",
                       call->function->name, id, device_count());
        return NULL;
    }
    struct device *device = &devices[id];
    while (device->is_starting)
        wait_for_progress(0);
    if (!device->base) {
        if (device_open(device) != 0) {
            *code = refuse(call, INTERNAL_ERROR, "%s: the host has no room for device %d of %llu bytes",
                           call->function->name, id, (unsigned long long)device->memory);
            return NULL;
        }
        if (settings.start_ns) {
            /* Others may go on, but not with this device. */
            device->is_starting = 1;
            unlock_state(NULL);
            sleep_until(now_ns() + settings.start_ns);
            lock_state();
            device->is_starting = 0;
            tell_progress();
        }
    }
    return device;
}

aclError aclrtSetDevice(int32_t id)
{
    CALL("device=%d", id);
    GUARD();
    int code = 0;
    struct device *device = take_device(call, id, &code);
    if (!device)
        return code;
    device->references++;
    device->primary.is_active = 1;
    current = &device->primary;
    return done(call);
}

aclError aclrtResetDevice(int32_t id)
{
    CALL("device=%d", id);
    GUARD();
    if (id < 0 || id >= device_count())
        return refuse(call, RT_INVALID_DEVICEID, "aclrtResetDevice: there is no device %d", id);
    struct device *device = &devices[id];
    if (device->references == 0)
        return refuse(call, RT_CONTEXT_NULL, "aclrtResetDevice: device %d is not in use", id);
    if (--device->references == 0) {
        device->primary.is_active = 0;
        streams_drain(device);
    }
    return done(call);
}

aclError aclrtGetDevice(int32_t *id)
{
    CALL(" ");
    GUARD();
    struct device *device = device_here();
    call->is_innocent = 1;
    if (!id)
        return refuse(call, INVALID_PARAM, "aclrtGetDevice: the argument is NULL");
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "aclrtGetDevice: " NO_CONTEXT);
    *id = device->id;
    return done(call);
}

aclError aclrtCreateContext(aclrtContext *out, int32_t id)
{
    CALL("device=%d", id);
    GUARD();
    int code = 0;
    struct device *device = take_device(call, id, &code);
    struct context *context = calloc(1, sizeof *context);
    if (!device || !out || !context) {
        free(context);
        return device ? refuse(call, INVALID_PARAM, "aclrtCreateContext: the argument is NULL") : code;
    }
    context->device = device;
    context->call = "aclrtCreateContext";
    context->is_active = 1;
    handles_add(context, CONTEXT);
    *out = current = context;
    return done(call);
}

aclError aclrtDestroyContext(aclrtContext context)
{
    CALL("context=%p", context);
    GUARD();
    if (!handles_have(context, CONTEXT))
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtDestroyContext: not a context that aclrtCreateContext made");
    struct context *gone = context;
    handles_remove(gone);
    if (gone->fallback)
        stream_end(gone->fallback, 0);
    free(gone);
    return done(call);
}

static int is_primary(const void *context)
{
    for (int i = 0; i < device_count(); i++)
        if (context == &devices[i].primary)
            return devices[i].primary.is_active;
    return 0;
}

aclError aclrtSetCurrentContext(aclrtContext context)
{
    CALL("context=%p", context);
    GUARD();
    if (!handles_have(context, CONTEXT) && !is_primary(context))
        return refuse(call, RT_CONTEXT_NULL, "aclrtSetCurrentContext: %p is not a context", context);
    current = context;
    return done(call);
}

aclError aclrtGetCurrentContext(aclrtContext *context)
{
    CALL(" ");
    GUARD();
    call->is_innocent = 1;
    if (!context)
        return refuse(call, INVALID_PARAM, "aclrtGetCurrentContext: the argument is NULL");
    if (!context_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtGetCurrentContext: " NO_CONTEXT);
    *context = current;
    return done(call);
}

aclError aclrtGetPrimaryCtxState(int32_t id, uint32_t *flags, int32_t *active)
{
    CALL("device=%d", id);
    GUARD();
    if (id < 0 || id >= device_count())
        return refuse(call, RT_INVALID_DEVICEID, "aclrtGetPrimaryCtxState: there is no device %d", id);
    if (flags)
        *flags = 0;
    if (active)
        *active = devices[id].primary.is_active;
    return done(call);
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t id, int32_t peer)
{
    CALL("device=%d peer=%d", id, peer);
    if (!can || id < 0 || id >= device_count() || peer < 0 || peer >= device_count())
        return refuse(call, RT_INVALID_DEVICEID, "aclrtDeviceCanAccessPeer: there is no such device");
    *can = id != peer;
    return done(call);
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags)
{
    CALL("peer=%d flags=%u", peer, flags);
    GUARD();
    struct device *device = device_here();
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "aclrtDeviceEnablePeerAccess: " NO_CONTEXT);
    if (peer < 0 || peer >= device_count() || peer == device->id)
        return refuse(call, RT_INVALID_DEVICEID, "aclrtDeviceEnablePeerAccess: no device %d", peer);
    device->peers |= 1U << peer;
    return done(call);
}

aclError aclrtDeviceGetBareTgid(int32_t *pid)
{
    CALL(" ");
    if (!pid)
        return refuse(call, INVALID_PARAM, "aclrtDeviceGetBareTgid: the argument is NULL");
    *pid = getpid();
    return done(call);
}
