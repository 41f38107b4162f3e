/* aclInit, aclFinalize, and the errors of a thread. */
#include "start.h"

#include <stdatomic.h>

#include "acl_sim.h"
#include "call.h"
#include "state.h"

static _Atomic int references;
static _Atomic int is_finalized;

int is_initialized(void)
{
    return atomic_load(&references) > 0;
}

aclError aclInit(const char *config)
{
    CALL("config=%s", config ? config : "");
    if (atomic_fetch_add(&references, 1) > 0)
        return refuse(call, REPEAT_INITIALIZE, "aclInit: done before");
    atomic_store(&is_finalized, 0);
    return done(call);
}

static aclError finalize(struct call *call)
{
    if (atomic_exchange(&references, 0) > 0) {
        atomic_store(&is_finalized, 1);
        return done(call);
    }
    if (atomic_load(&is_finalized))
        return refuse(call, REPEAT_FINALIZE, "aclFinalize: done before");
    return refuse(call, UNINITIALIZE, "aclFinalize: aclInit has not been called");
}

aclError aclFinalize(void)
{
    CALL(" ");
    return finalize(call);
}

aclError aclFinalizeReference(uint64_t *left)
{
    CALL(" ");
    int now = atomic_load(&references);
    if (now <= 1) {
        if (left)
            *left = 0;
        return finalize(call);
    }
    atomic_fetch_sub(&references, 1);
    if (left)
        *left = (uint64_t)now - 1;
    return done(call);
}

/* These three look at the last error of the thread and so leave it alone. */

const char *aclGetRecentErrMsg(void)
{
    LISTED();
    atomic_fetch_add(&call->function->calls, 1);
    return recent_message();
}

aclError aclrtPeekAtLastError(int level)
{
    LISTED();
    (void)level;
    atomic_fetch_add(&call->function->calls, 1);
    return last_error(0);
}

aclError aclrtGetLastError(int level)
{
    LISTED();
    (void)level;
    atomic_fetch_add(&call->function->calls, 1);
    return last_error(1);
}
