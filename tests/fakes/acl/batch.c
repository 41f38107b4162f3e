/* Many copies in one call: all in one direction, in no order that a caller may rely on. */
#include <string.h>

#include "account.h"
#include "acl_sim.h"
#include "copy.h"
#include "settings.h"
#include "state.h"

struct batch {
    void **dsts, **srcs;
    size_t *rooms, *nbytes, count;
    struct batch_attributes *attributes;
    size_t *indexes, n_attributes;
};

/* The direction of a copy by what its attributes say; -1 if they make no sense. */
static int kind_of(const struct batch *batch, size_t i)
{
    const struct batch_attributes *found = NULL;
    for (size_t n = 0; n < batch->n_attributes && batch->indexes[n] <= i; n++)
        found = &batch->attributes[n];
    if (!found || found->dst.type == found->src.type)
        return -1;
    return found->dst.type == LOCATION_DEVICE ? KIND_H2D : KIND_D2H;
}

static int check(struct call *call, const struct batch *batch, size_t *failed)
{
    const char *name = call->function->name;
    if (failed)
        *failed = SIZE_MAX;
    if (!batch->dsts || !batch->srcs || !batch->rooms || !batch->nbytes || !batch->attributes ||
        !batch->indexes || batch->count == 0 || batch->n_attributes == 0)
        return refuse(call, INVALID_PARAM, "%s: an argument is NULL, or there is nothing to copy", name);
    if (strncmp(settings.soc, "Ascend310", 9) == 0)
        return refuse(call, RT_FEATURE_NOT_SUPPORT, "%s: not on %s", name, settings.soc);
    for (size_t i = 0; i < batch->count; i++)
        if (kind_of(batch, i) < 0 || kind_of(batch, i) != kind_of(batch, 0)) {
            if (failed)
                *failed = i;
            return refuse(call, RT_PARAM_INVALID, "%s: copy %zu is neither to nor from a device, or goes "
                          "another way than the first", name, i);
        }
    return 0;
}

static struct request request_of(const struct batch *batch, size_t i)
{
    return (struct request){batch->dsts[i], batch->srcs[i], batch->rooms[i], batch->nbytes[i],
                            kind_of(batch, i)};
}

static int copy_all(struct call *call, const struct batch *batch, size_t *failed)
{
    int code = check(call, batch, failed);
    for (size_t i = 0; i < batch->count && !code; i++) {
        struct request request = request_of(batch, i);
        struct move move;
        {
            GUARD();
            if (!device_here())
                return refuse(call, RT_CONTEXT_NULL, "%s: " NO_CONTEXT, call->function->name);
            code = move_find(call, &move, &request);
            if (code) {
                if (failed)
                    *failed = i;
                return code;
            }
            side_hold(&move.dst);
            side_hold(&move.src);
            counters.sync_copies++;
        }
        move_now(&move);
    }
    return code ? code : done(call);
}

static int queue_all(struct call *call, const struct batch *batch, size_t *failed, aclrtStream stream)
{
    int code = check(call, batch, failed);
    for (size_t i = 0; i < batch->count && !code; i++) {
        struct request request = request_of(batch, i);
        code = copy_async(call, &request, stream, 0);
        if (code && failed)
            *failed = i;
    }
    return code ? code : done(call);
}

#define BATCH {dsts, srcs, rooms, nbytes, count, attributes, indexes, n_attributes}

aclError aclrtMemcpyBatch(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                          struct batch_attributes *attributes, size_t *indexes, size_t n_attributes,
                          size_t *failed)
{
    CALL("count=%zu", count);
    struct batch batch = BATCH;
    return copy_all(call, &batch, failed);
}

aclError aclrtMemcpyBatchV2(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                            struct batch_attributes *attributes, size_t *indexes, size_t n_attributes)
{
    CALL("count=%zu", count);
    struct batch batch = BATCH;
    return copy_all(call, &batch, NULL);
}

aclError aclrtMemcpyBatchAsync(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                               struct batch_attributes *attributes, size_t *indexes, size_t n_attributes,
                               size_t *failed, aclrtStream stream)
{
    CALL("count=%zu stream=%p", count, stream);
    struct batch batch = BATCH;
    return queue_all(call, &batch, failed, stream);
}

aclError aclrtMemcpyBatchAsyncV2(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                                 struct batch_attributes *attributes, size_t *indexes, size_t n_attributes,
                                 aclrtStream stream)
{
    CALL("count=%zu stream=%p", count, stream);
    struct batch batch = BATCH;
    return queue_all(call, &batch, NULL, stream);
}
