/* Events. A record leaves a mark in its stream; the event points to its latest mark. */
#include <stdlib.h>
#include <string.h>

#include "acl_sim.h"
#include "event.h"
#include "handles.h"
#include "state.h"
#include "worker.h"

struct mark {
    int refs;
    int is_done, code;
    int waits;          /* streams that have yet to pass it */
    uint64_t ns, clock; /* when it was done; when, by the links */
    char text[160];
};

struct record {
    struct task task;
    struct mark *mark;
};

static void mark_release(struct mark *mark)
{
    if (mark && --mark->refs == 0)
        free(mark);
}

static aclError create(struct call *call, aclrtEvent *out, uint32_t flags, int is_ex)
{
    GUARD();
    const char *name = call->function->name;
    struct context *context = context_here();
    if (!out)
        return refuse(call, INVALID_PARAM, "%s: nowhere to write to", name);
    if (!context)
        return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    if (context->device->events == MAX_EVENTS)
        return refuse(call, RT_NO_EVENT_RESOURCE, "%s: device %d has %d events, and can have no more",
                      name, context->device->id, MAX_EVENTS);
    struct event *event = calloc(1, sizeof *event);
    if (!event)
        abort();
    event->context = context;
    event->device = context->device->id;
    event->call = name;
    event->flags = flags;
    event->is_ex = is_ex;
    context->device->events++;
    handles_add(event, EVENT);
    *out = event;
    return done(call);
}

aclError aclrtCreateEvent(aclrtEvent *event)
{
    CALL(" ");
    return create(call, event, EVENT_SYNC | EVENT_TIME_LINE, 0);
}

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags)
{
    CALL("flags=%u", flags);
    return create(call, event, flags, 0);
}

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags)
{
    CALL("flags=%u", flags);
    return create(call, event, flags, 1);
}

/* The event that a caller means: NULL after a refusal, which `code` gets. */
static struct event *event_named(struct call *call, void *handle, int *code)
{
    const char *name = call->function->name;
    *code = 0;
    if (!context_here())
        *code = refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, name);
    else if (!handles_have(handle, EVENT))
        *code = refuse(call, RT_INVALID_HANDLE, "%s: %p is not an event, or not any more", name, handle);
    return *code ? NULL : handle;
}

aclError aclrtDestroyEvent(aclrtEvent handle)
{
    CALL("event=%p", handle);
    GUARD();
    struct event *event = handle;
    if (!handles_have(handle, EVENT))
        return refuse(call, RT_INVALID_HANDLE, "aclrtDestroyEvent: %p is not an event, or not any more",
                      handle);
    handles_remove(event);
    devices[event->device].events--;
    mark_release(event->mark);
    free(event);
    return done(call);
}

static void end_record(struct stream *stream, struct task *task)
{
    struct mark *mark = ((struct record *)task)->mark;
    mark->is_done = 1;
    mark->ns = now_ns();
    mark->clock = stream->clock > task->submitted ? stream->clock : task->submitted;
    mark->code = stream->failure;
    memcpy(mark->text, stream->failure_text, sizeof mark->text);
    mark_release(mark);
}

static int run_wait(struct stream *stream, struct task *task)
{
    GUARD();
    struct mark *mark = ((struct record *)task)->mark;
    while (!mark->is_done && !stream->is_forced)
        wait_for_progress(0);
    if (mark->clock > stream->clock)
        stream->clock = mark->clock;
    return 0;
}

static void end_wait(struct stream *stream, struct task *task)
{
    struct mark *mark = ((struct record *)task)->mark;
    (void)stream;
    mark->waits--;
    mark_release(mark);
}

/* Queue a record or a wait of a mark. */
static int queue(struct call *call, struct stream *stream, struct mark *mark, int is_wait)
{
    struct record *record = (struct record *)task_new(sizeof *record, call, is_wait ? run_wait : NULL);
    record->mark = mark;
    record->task.end = is_wait ? end_wait : end_record;
    mark->refs++;
    mark->waits += is_wait;
    if (stream_submit(stream, &record->task) == 0)
        return 0;
    return refuse(call, RT_NO_STREAM_RESOURCE, "%s: no thread for the stream", call->function->name);
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle)
{
    CALL("event=%p stream=%p", handle, stream_handle);
    GUARD();
    int code;
    struct event *event = event_named(call, handle, &code);
    struct stream *stream = event ? stream_named(call, stream_handle, &code) : NULL;
    if (!stream)
        return code;
    if (event->context != stream->context)
        return refuse(call, RT_STREAM_CONTEXT,
                      "aclrtRecordEvent: an event of device %d cannot be recorded on device %d",
                      event->device, stream->device->id);
    struct mark *mark = calloc(1, sizeof *mark);
    if (!mark)
        abort();
    mark->refs = 1;
    mark_release(event->mark);
    event->mark = mark;
    code = queue(call, stream, mark, 0);
    return code ? code : done(call);
}

aclError aclrtStreamWaitEvent(aclrtStream stream_handle, aclrtEvent handle)
{
    CALL("stream=%p event=%p", stream_handle, handle);
    GUARD();
    int code;
    struct event *event = event_named(call, handle, &code);
    struct stream *stream = event ? stream_named(call, stream_handle, &code) : NULL;
    if (!stream)
        return code;
    if (!(event->flags & EVENT_SYNC))
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtStreamWaitEvent: the event was made without ACL_EVENT_SYNC");
    if (event->device != stream->device->id && !(stream->device->peers & 1U << event->device))
        return refuse(
            call, RT_STREAM_CONTEXT,
            "aclrtStreamWaitEvent: a stream of device %d cannot wait for an event of device %d",
            stream->device->id, event->device);
    if (event->mark && !event->mark->is_done)
        code = queue(call, stream, event->mark, 1);
    return code ? code : done(call);
}

aclError aclrtResetEvent(aclrtEvent handle, aclrtStream stream_handle)
{
    CALL("event=%p stream=%p", handle, stream_handle);
    GUARD();
    int code;
    struct event *event = event_named(call, handle, &code);
    struct stream *stream = event ? stream_named(call, stream_handle, &code) : NULL;
    if (!stream)
        return code;
    if (event->is_ex)
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtResetEvent: not of an event of aclrtCreateEventExWithFlag");
    mark_release(event->mark);
    event->mark = NULL;
    return done(call);
}

/* Has its latest record passed? One that was never recorded has. A failure before it is told. */
static int query(struct call *call, aclrtEvent handle, int *status, int *is_done)
{
    int code;
    struct event *event = event_named(call, handle, &code);
    if (!event)
        return code;
    if (!status)
        return refuse(call, INVALID_PARAM, "%s: nowhere to write to", call->function->name);
    *is_done = !event->mark || event->mark->is_done;
    if (event->mark && event->mark->code)
        return refuse(call, event->mark->code, "%s: %s", call->function->name, event->mark->text);
    return 0;
}

aclError aclrtQueryEventStatus(aclrtEvent handle, int *status)
{
    CALL("event=%p", handle);
    GUARD();
    int is_done = 0, code = query(call, handle, status, &is_done);
    if (code)
        return code;
    *status = is_done;
    return done(call);
}

/* The older question, with the opposite numbers. */
aclError aclrtQueryEvent(aclrtEvent handle, int *status)
{
    CALL("event=%p", handle);
    GUARD();
    int is_done = 0, code = query(call, handle, status, &is_done);
    if (code)
        return code;
    if (((struct event *)handle)->is_ex)
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtQueryEvent: not of an event of aclrtCreateEventExWithFlag");
    *status = !is_done;
    return done(call);
}

aclError aclrtQueryEventWaitStatus(aclrtEvent handle, int *status)
{
    CALL("event=%p", handle);
    GUARD();
    int is_done = 0, code = query(call, handle, status, &is_done);
    if (code)
        return code;
    struct event *event = handle;
    if (event->is_ex)
        return refuse(call, RT_PARAM_INVALID,
                      "aclrtQueryEventWaitStatus: not of an event of aclrtCreateEventExWithFlag");
    *status = event->mark && event->mark->waits > 0;
    return done(call);
}

static aclError synchronize(struct call *call, aclrtEvent handle, int32_t timeout_ms)
{
    GUARD();
    int code, is_late = 0;
    struct event *event = event_named(call, handle, &code);
    uint64_t deadline = deadline_of(timeout_ms);
    if (!event)
        return code;
    struct mark *mark = event->mark;
    if (!mark)
        return done(call);
    mark->refs++;
    while (!mark->is_done && !is_late)
        is_late = wait_for_progress(deadline) != 0 && !mark->is_done;
    if (is_late)
        code = refuse(call, RT_EVENT_SYNC_TIMEOUT, "%s: not done after %d ms", call->function->name,
                      timeout_ms);
    else if (mark->code)
        code = refuse(call, mark->code, "%s: %s", call->function->name, mark->text);
    mark_release(mark);
    return code ? code : done(call);
}

aclError aclrtSynchronizeEvent(aclrtEvent event)
{
    CALL("event=%p", event);
    return synchronize(call, event, -1);
}

aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout_ms)
{
    CALL("event=%p timeout_ms=%d", event, timeout_ms);
    return synchronize(call, event, timeout_ms);
}

/* When an event was passed: NULL after a refusal, which `code` gets. */
static const struct mark *time_of(struct call *call, aclrtEvent handle, int *code)
{
    struct event *event = event_named(call, handle, code);
    if (!event)
        return NULL;
    if ((event->flags & EVENT_TIME_LINE) && event->mark && event->mark->is_done)
        return event->mark;
    *code = refuse(
        call, RT_EVENT_TIMESTAMP_INVALID,
        "%s: the event is made without ACL_EVENT_TIME_LINE, or not recorded, or not yet passed",
        call->function->name);
    return NULL;
}

aclError aclrtEventElapsedTime(float *ms, aclrtEvent start_handle, aclrtEvent end_handle)
{
    CALL("start_event=%p end_event=%p", start_handle, end_handle);
    GUARD();
    int code;
    const struct mark *start = time_of(call, start_handle, &code);
    const struct mark *end = start ? time_of(call, end_handle, &code) : NULL;
    if (!end)
        return code;
    if (!ms)
        return refuse(call, INVALID_PARAM, "aclrtEventElapsedTime: nowhere to write to");
    *ms = (float)((double)(int64_t)(end->ns - start->ns) / 1e6);
    return done(call);
}

aclError aclrtEventGetTimestamp(aclrtEvent handle, uint64_t *us)
{
    CALL("event=%p", handle);
    GUARD();
    int code;
    const struct mark *mark = time_of(call, handle, &code);
    if (!mark)
        return code;
    if (!us)
        return refuse(call, INVALID_PARAM, "aclrtEventGetTimestamp: nowhere to write to");
    *us = mark->ns / 1000;
    return done(call);
}
