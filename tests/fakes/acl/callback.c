/* Functions of the caller's in a stream: they are run by the stream's own thread.
 *
 * So nobody has to ask for them, and aclrtProcessReport finds nothing to do. */
#include "acl_sim.h"
#include "settings.h"
#include "state.h"
#include "stream.h"

struct callback {
    struct task task;
    aclrtCallback function;
    void *data;
};

static int run_callback(struct stream *stream, struct task *task)
{
    struct callback *callback = (struct callback *)task;
    sleep_until(task_ready(stream, task));
    callback->function(callback->data);
    stream->clock = now_ns();
    return 0;
}

static aclError launch(struct call *call, aclrtStream handle, aclrtCallback function, void *data)
{
    GUARD();
    int code;
    const char *name = call->function->name;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    if (!function)
        return refuse(call, INVALID_PARAM, "%s: the function is NULL", name);
    struct callback *callback = (struct callback *)task_new(sizeof *callback, call, run_callback);
    callback->function = function;
    callback->data = data;
    if (stream_submit(stream, &callback->task))
        return refuse(call, RT_NO_STREAM_RESOURCE, "%s: no thread for the stream", name);
    return done(call);
}

aclError aclrtLaunchCallback(aclrtCallback function, void *data, int block, aclrtStream stream)
{
    CALL("block=%d stream=%p", block, stream);
    return launch(call, stream, function, data);
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtCallback function, void *data)
{
    CALL("stream=%p", stream);
    return launch(call, stream, function, data);
}

aclError aclrtSubscribeReport(uint64_t thread, aclrtStream stream)
{
    CALL("thread=%llu stream=%p", (unsigned long long)thread, stream);
    return done(call);
}

aclError aclrtUnSubscribeReport(uint64_t thread, aclrtStream stream)
{
    CALL("thread=%llu stream=%p", (unsigned long long)thread, stream);
    return done(call);
}

aclError aclrtProcessReport(int32_t timeout_ms)
{
    CALL("timeout_ms=%d", timeout_ms);
    /* No longer than a while: nothing may hang. */
    int32_t ms = timeout_ms < 0 || timeout_ms > 1000 ? 1000 : timeout_ms;
    sleep_until(now_ns() + (uint64_t)ms * 1000000);
    return refuse(call, RT_REPORT_TIMEOUT, "aclrtProcessReport: nothing to do in %d ms", ms);
}
