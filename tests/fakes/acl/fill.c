/* aclrtMemset and aclrtMemsetAsync. */
#include <stdatomic.h>
#include <string.h>

#include "acl_sim.h"
#include "move.h"
#include "settings.h"
#include "state.h"

struct fill {
    struct task task;
    struct side side;
    int value;
    size_t nbytes;
};

/* With the lock: nonzero after a refusal. */
static int find(struct call *call, struct fill *fill, void *address, size_t room)
{
    const char *name = call->function->name;
    if (!address)
        return refuse(call, INVALID_PARAM, "%s: the address is NULL", name);
    if (fill->nbytes > room)
        return refuse(call, RT_PARAM_INVALID, "%s: %zu bytes do not fit the %zu that are there", name,
                      fill->nbytes, room);
    return side_find(call, "memory", address, fill->nbytes, &fill->side);
}

static int run_fill(struct stream *stream, struct task *task)
{
    struct fill *fill = (struct fill *)task;
    sleep_until(task_ready(stream, task));
    /* Host memory cannot be filled once it is gone; a device's bytes always lie somewhere. */
    GUARD();
    if (!fill->side.range->is_gone)
        memset(fill->side.bytes, fill->value, fill->nbytes);
    stream->clock = now_ns();
    return 0;
}

static void end_fill(struct stream *stream, struct task *task)
{
    (void)stream;
    side_release(&((struct fill *)task)->side);
}

aclError aclrtMemset(void *address, size_t room, int32_t value, size_t nbytes)
{
    CALL("address=%p nbytes=%zu value=%d", address, nbytes, value);
    GUARD();
    struct fill fill = {.value = value, .nbytes = nbytes};
    if (!device_here())
        return refuse(call, RT_CONTEXT_NULL, "aclrtMemset: " NO_CONTEXT);
    int code = find(call, &fill, address, room);
    if (code)
        return code;
    memset(fill.side.bytes, value, nbytes);
    return done(call);
}

aclError aclrtMemsetAsync(void *address, size_t room, int32_t value, size_t nbytes, aclrtStream handle)
{
    CALL("address=%p nbytes=%zu value=%d stream=%p", address, nbytes, value, handle);
    GUARD();
    int code;
    struct fill *fill, found = {.value = value, .nbytes = nbytes};
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    code = find(call, &found, address, room);
    if (code)
        return code;
    if (!found.side.range)
        return refuse(call, RT_INVALID_MEMORY_TYPE, "aclrtMemsetAsync: %p is not the runtime's memory",
                      address);
    fill = (struct fill *)task_new(sizeof *fill, call, run_fill);
    fill->task.end = end_fill;
    fill->side = found.side;
    fill->value = value;
    fill->nbytes = nbytes;
    side_hold(&fill->side);
    if (stream_submit(stream, &fill->task))
        return refuse(call, RT_NO_STREAM_RESOURCE, "aclrtMemsetAsync: no thread for the stream");
    return done(call);
}
