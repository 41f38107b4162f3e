/* Streams: made, waited for, ended. Their threads are in worker.c. */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

#include "acl_sim.h"
#include "handles.h"
#include "state.h"
#include "worker.h"

static struct stream *stream_new(struct context *context, const char *call, uint32_t flags)
{
    static int next_id;
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        abort();
    stream->context = context;
    stream->device = context->device;
    stream->call = call;
    stream->id = next_id++;
    stream->flags = flags;
    stream->refs = 1;
    stream->last = &stream->first;
    pthread_cond_init(&stream->wake, NULL);
    return stream;
}

static aclError create(struct call *call, aclrtStream *out, uint32_t flags)
{
    GUARD();
    const char *name = call->function->name;
    struct context *context = context_here();
    if (!out)
        return refuse(call, INVALID_PARAM, "%s: nowhere to write to", name);
    if (!context)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    if (context->device->streams == MAX_STREAMS)
        return refuse(call, RT_NO_STREAM_RESOURCE, "%s: device %d has %d streams, and can have no more",
                      name, context->device->id, MAX_STREAMS);
    context->device->streams++;
    *out = stream_new(context, name, flags);
    handles_add(*out, STREAM);
    return done(call);
}

aclError aclrtCreateStream(aclrtStream *stream)
{
    CALL(" ");
    return create(call, stream, 0);
}

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flags)
{
    CALL("priority=%u flags=%u", priority, flags);
    return create(call, stream, flags);
}

struct stream *stream_named(struct call *call, void *handle, int *code)
{
    struct context *context = context_here();
    struct stream *stream = handle;
    const char *name = call->function->name;
    *code = 0;
    if (!context)
        *code = refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    else if (handle && !handles_have(handle, STREAM))
        *code = refuse(call, RT_INVALID_HANDLE, "%s: %p is not a stream, or not any more", name, handle);
    else if (handle && stream->context != context)
        *code = refuse(call, RT_STREAM_CONTEXT,
                       "%s: the stream belongs to a context of device %d, this thread's is of device %d",
                       name, stream->device->id, context->device->id);
    if (*code)
        return NULL;
    if (handle)
        return stream;
    if (!context->fallback)
        context->fallback = stream_new(context, context->call, 0);
    return context->fallback;
}

int stream_wait(struct stream *stream, uint64_t deadline_ns)
{
    uint64_t last = stream->submitted;
    int is_late = 0;
    stream->refs++;
    while (stream->done < last && !is_late)
        is_late = wait_for_progress(deadline_ns) != 0 && stream->done < last;
    stream_release(stream);
    return is_late;
}

uint64_t deadline_of(int32_t timeout_ms)
{
    return timeout_ms < 0 ? 0 : now_ns() + (uint64_t)timeout_ms * 1000000;
}

int stream_settle(struct call *call, struct stream *stream, int32_t timeout_ms)
{
    const char *name = call->function->name;
    int code;
    stream->refs++;
    if (stream_wait(stream, deadline_of(timeout_ms))) {
        code = refuse(call, RT_STREAM_SYNC_TIMEOUT, "%s: not done after %d ms", name, timeout_ms);
    } else if ((code = stream->failure) != 0) {
        refuse(call, code, "%s: %s", name, stream->failure_text);
        stream->failure = 0;
    }
    stream_release(stream);
    return code;
}

static aclError synchronize(struct call *call, aclrtStream handle, int32_t timeout_ms)
{
    GUARD();
    int code;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    code = stream_settle(call, stream, timeout_ms);
    return code ? code : done(call);
}

aclError aclrtSynchronizeStream(aclrtStream stream)
{
    CALL("stream=%p", stream);
    return synchronize(call, stream, -1);
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout_ms)
{
    CALL("stream=%p timeout_ms=%d", stream, timeout_ms);
    return synchronize(call, stream, timeout_ms);
}

/* The n-th stream of a device with work or a failure, default streams among them. */
static struct stream *busy_stream(struct device *device)
{
    size_t position = 0;
    struct stream *stream;
    struct context *context = &device->primary;
    do {
        stream = context->fallback;
        if (stream && stream->device == device && (stream->done < stream->submitted || stream->failure))
            return stream;
    } while ((context = handles_next(CONTEXT, &position)));
    position = 0;
    while ((stream = handles_next(STREAM, &position)))
        if (stream->device == device && (stream->done < stream->submitted || stream->failure))
            return stream;
    return NULL;
}

static aclError synchronize_device(struct call *call, int32_t timeout_ms)
{
    GUARD();
    struct device *device = device_here();
    struct stream *stream;
    uint64_t deadline = deadline_of(timeout_ms);
    int code = 0;
    if (!device)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, call->function->name);
    while ((stream = busy_stream(device))) {
        stream->refs++;
        if (stream_wait(stream, deadline)) {
            stream_release(stream);
            return refuse(call, RT_STREAM_SYNC_TIMEOUT, "%s: not done after %d ms", call->function->name,
                          timeout_ms);
        }
        if (stream->failure) {
            code = refuse(call, stream->failure, "%s: %s", call->function->name, stream->failure_text);
            stream->failure = 0;
        }
        stream_release(stream);
    }
    return code ? code : done(call);
}

aclError aclrtSynchronizeDevice(void)
{
    CALL(" ");
    return synchronize_device(call, -1);
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout_ms)
{
    CALL("timeout_ms=%d", timeout_ms);
    return synchronize_device(call, timeout_ms);
}

void streams_drain(struct device *device)
{
    struct stream *stream;
    while ((stream = busy_stream(device))) {
        stream_wait(stream, 0);
        stream->failure = 0;
    }
}

aclError aclrtStreamQuery(aclrtStream handle, int *status)
{
    CALL("stream=%p", handle);
    GUARD();
    int code;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    if (!status)
        return refuse(call, INVALID_PARAM, "aclrtStreamQuery: nowhere to write to");
    if (stream->failure)
        return refuse(call, stream->failure, "aclrtStreamQuery: %s", stream->failure_text);
    *status = stream->done < stream->submitted;
    return done(call);
}

void stream_end(struct stream *stream, int is_forced)
{
    if (is_forced)
        stream->is_forced = 1;
    else
        stream_wait(stream, 0);
    stream->is_ending = 1;
    pthread_cond_signal(&stream->wake);
    tell_progress();
    stream_release(stream);
}

static aclError destroy(struct call *call, aclrtStream handle, int is_forced)
{
    GUARD();
    int code;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    if (!handle)
        return refuse(call, RT_INVALID_HANDLE, "%s: the default stream stays", call->function->name);
    handles_remove(stream);
    stream->device->streams--;
    stream_end(stream, is_forced);
    return done(call);
}

aclError aclrtDestroyStream(aclrtStream stream)
{
    CALL("stream=%p", stream);
    return destroy(call, stream, 0);
}

aclError aclrtDestroyStreamForce(aclrtStream stream)
{
    CALL("stream=%p", stream);
    return destroy(call, stream, 1);
}

aclError aclrtStreamGetId(aclrtStream handle, int32_t *id)
{
    CALL("stream=%p", handle);
    GUARD();
    int code;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    if (!id)
        return refuse(call, INVALID_PARAM, "aclrtStreamGetId: nowhere to write to");
    *id = stream->id;
    return done(call);
}

aclError aclrtSetStreamFailureMode(aclrtStream handle, uint64_t mode)
{
    CALL("stream=%p mode=%llu", handle, (unsigned long long)mode);
    GUARD();
    int code;
    struct stream *stream = stream_named(call, handle, &code);
    if (!stream)
        return code;
    stream->stops_on_failure = mode == 1;
    return done(call);
}

aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag)
{
    CALL("stream=%p flag=%u", stream, flag);
    return done(call);
}
