/* aclrtMemcpy and aclrtMemcpyAsync: checked, then done at once or queued. */
#include "copy.h"

#include "account.h"
#include "acl_sim.h"
#include "settings.h"
#include "state.h"

/* Does the kind say what the addresses are? */
static int kind_fits(int kind, const struct move *move)
{
    int from_device = move->src.device != NULL, to_device = move->dst.device != NULL;
    switch (kind) {
    case KIND_H2H: return !from_device && !to_device;
    case KIND_BUFFERED:
    case KIND_H2D: return !from_device && to_device;
    case KIND_D2H: return from_device && !to_device;
    case KIND_D2D: return from_device && to_device;
    case KIND_INNER_D2D: return from_device && move->src.device == move->dst.device;
    case KIND_INTER_D2D: return from_device && to_device && move->src.device != move->dst.device;
    default: return 1;
    }
}

static enum direction direction_of(const struct move *move)
{
    if (move->src.device)
        return move->dst.device ? D2D : D2H;
    return move->dst.device ? H2D : H2H;
}

int move_find(struct call *call, struct move *move, const struct request *request)
{
    const char *name = call->function->name;
    int last_kind = cann_number < CANN_RC(8, 1, 1) ? KIND_D2D : KIND_INTER_D2D;
    *move = (struct move){.nbytes = request->nbytes, .call = name};
    if (!request->dst || !request->src)
        return refuse(call, INVALID_PARAM, "%s: an address is NULL", name);
    if (request->nbytes > request->room)
        return refuse(call, RT_PARAM_INVALID, "%s: %zu bytes do not fit the %zu of the destination",
                      name, request->nbytes, request->room);
    if (request->kind < 0 || request->kind > last_kind)
        return refuse(call, RT_PARAM_INVALID, "%s: there is no kind %d in CANN %s", name, request->kind,
                      cann_version);
    int code = side_find(call, "destination", request->dst, request->nbytes, &move->dst);
    if (code == 0)
        code = side_find(call, "source", request->src, request->nbytes, &move->src);
    if (code)
        return code;
    move->direction = direction_of(move);
    move->link = move->dst.device ? move->dst.device : move->src.device;
    /* In RC mode all memory is the device's, and the kind does not matter. */
    if (!settings.is_rc && !kind_fits(request->kind, move))
        return refuse(call, RT_INVALID_MEMORY_TYPE,
                      "%s: kind %d, but the source is %s and the destination %s", name, request->kind,
                      move->src.device ? "device memory" : "host memory",
                      move->dst.device ? "device memory" : "host memory");
    return 0;
}

static void hold(struct move *move)
{
    side_hold(&move->dst);
    side_hold(&move->src);
}

void move_release(struct move *move)
{
    side_release(&move->dst);
    side_release(&move->src);
}

/* Move the bytes in the thread of the caller. */
void move_now(struct move *move)
{
    move_bytes(move, -1, now_ns());
    GUARD();
    move_release(move);
}

aclError aclrtMemcpy(void *dst, size_t room, const void *src, size_t nbytes, int kind)
{
    CALL("nbytes=%zu kind=%d dst=%p src=%p", nbytes, kind, dst, src);
    struct request request = {dst, src, room, nbytes, kind};
    struct move move;
    {
        GUARD();
        if (!device_here())
            return refuse(call, RT_CONTEXT_NULL, "aclrtMemcpy: " NO_CONTEXT);
        if (nbytes == 0)
            return done(call);
        int code = move_find(call, &move, &request);
        if (code)
            return code;
        hold(&move);
        counters.sync_copies++;
    }
    move_now(&move);
    return done(call);
}

struct copy {
    struct task task;
    struct move move;
};

static int run_copy(struct stream *stream, struct task *task)
{
    struct copy *copy = (struct copy *)task;
    uint64_t due = move_bytes(&copy->move, stream->id, task_ready(stream, task));
    stream->clock = due ? due : now_ns();
    return 0;
}

static void end_copy(struct stream *stream, struct task *task)
{
    (void)stream;
    move_release(&((struct copy *)task)->move);
}

/* What only asynchronous copies have to observe. */
static int check_async(struct call *call, const struct move *move, const struct stream *stream)
{
    const char *name = call->function->name;
    uintptr_t ends = (uintptr_t)move->dst.at | (uintptr_t)move->src.at;
    const struct device *dst = move->dst.device, *src = move->src.device, *here = stream->device;
    if (settings.alignment && ends % (uintptr_t)settings.alignment)
        return refuse(call, RT_ADDR_UNALIGNED,
                      "%s: addresses %p and %p have to be multiples of %d in CANN %s", name,
                      (void *)move->dst.at, (void *)move->src.at, settings.alignment, cann_version);
    if (settings.is_rc)
        return 0;
    if (move->direction == H2H)
        return refuse(call, RT_FEATURE_NOT_SUPPORT, "%s: not from host to host", name);
    if (dst && src && dst != src) {
        const struct device *other = dst == here ? src : dst;
        if (!(here->peers & 1U << other->id) || (dst != here && src != here))
            return refuse(call, RT_PARAM_INVALID, "%s: device %d has no access to device %d", name,
                          here->id, other->id);
    } else if (move->link != here) {
        return refuse(call, RT_STREAM_CONTEXT, "%s: memory of device %d, a stream of device %d", name,
                      move->link->id, here->id);
    }
    return 0;
}

static int is_unpinned(const struct move *move)
{
    const struct side *host = move->direction == H2D ? &move->src : &move->dst;
    return !settings.is_rc && move->direction <= D2H && !side_is_pinned(host);
}

int copy_async(struct call *call, const struct request *request, aclrtStream handle,
               int waits_if_unpinned)
{
    struct move move;
    {
        GUARD();
        int code;
        struct stream *stream = stream_named(call, handle, &code);
        if (!stream)
            return code;
        if (request->nbytes == 0)
            return 0;
        code = move_find(call, &move, request);
        if (code == 0)
            code = check_async(call, &move, stream);
        if (code)
            return code;
        hold(&move);
        counters.async_copies++;
        if (is_unpinned(&move)) {
            counters.pageable_copies++;
            move.is_corrupt = !waits_if_unpinned && atomic_load(&settings.unpinned) == UNPINNED_CORRUPT;
            counters.corrupted_copies += (uint64_t)move.is_corrupt;
        }
        if (!is_unpinned(&move) || move.is_corrupt) {
            struct copy *copy = (struct copy *)task_new(sizeof *copy, call, run_copy);
            copy->task.end = end_copy;
            copy->move = move;
            if (stream_submit(stream, &copy->task) == 0)
                return 0;
            return refuse(call, RT_NO_STREAM_RESOURCE, "%s: no thread for the stream",
                          call->function->name);
        }
        /* The call waits for the stream, and then for the copy. */
        code = stream_settle(call, stream, -1);
        if (code == 0 && call->later)
            code = refuse(call, call->later, "%s: injected failure %d", call->function->name,
                          call->later);
        if (code) {
            move_release(&move);
            return code;
        }
    }
    move_now(&move);
    return 0;
}

aclError aclrtMemcpyAsync(void *dst, size_t room, const void *src, size_t nbytes, int kind,
                          aclrtStream stream)
{
    CALL("nbytes=%zu kind=%d dst=%p src=%p stream=%p", nbytes, kind, dst, src, stream);
    struct request request = {dst, src, room, nbytes, kind};
    int code = copy_async(call, &request, stream, kind == KIND_BUFFERED);
    return code ? code : done(call);
}

aclError aclrtMemcpyAsyncWithCondition(void *dst, size_t room, const void *src, size_t nbytes, int kind,
                                       aclrtStream stream)
{
    CALL("nbytes=%zu kind=%d dst=%p src=%p stream=%p", nbytes, kind, dst, src, stream);
    struct request request = {dst, src, room, nbytes, kind};
    int code = copy_async(call, &request, stream, 1);
    return code ? code : done(call);
}
