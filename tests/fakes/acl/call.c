/* Begin and end of every call. */
#include "call.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "account.h"
#include "acl_sim.h"
#include "faults.h"
#include "state.h"
#include "trace.h"

static _Thread_local char message[1024];
static _Thread_local int has_message, last_code;

int begin(struct call *call, const char *arguments, ...)
{
    int code;
    atomic_fetch_add(&call->function->calls, 1);
    if (has_message) {
        /* Whoever still holds the pointer shall see that the text is gone. */
        memset(message, '?', strlen(message));
        has_message = 0;
    }
    if (is_tracing()) {
        va_list list;
        va_start(list, arguments);
        vsnprintf(call->arguments, sizeof call->arguments, arguments, list);
        va_end(list);
        call->start = now_ns();
    }
    if (forked)
        return refuse(call, RT_DRV_INTERNAL_ERROR, "%s: the runtime cannot be used after fork",
                      call->function->name);
    code = next_fault(call->function, &call->later);
    if (code == 0)
        return 0;
    call->is_innocent = 1;
    count_injected();
    return refuse(call, code, "%s: injected failure %d", call->function->name, code);
}

int refuse(struct call *call, int code, const char *text, ...)
{
    va_list list;
    va_start(list, text);
    vsnprintf(message, sizeof message, text, list);
    va_end(list);
    has_message = 1;
    last_code = code;
    atomic_fetch_add(&call->function->refused, 1);
    if (code == RT_CONTEXT_NULL && !call->is_innocent)
        count_wrong_thread();
    trace_call(call, code);
    return code;
}

int done(struct call *call)
{
    trace_call(call, 0);
    return 0;
}

struct function *function_named(const char *name)
{
    for (struct function *const *one = __start_aclsim_calls; one < __stop_aclsim_calls; one++)
        if (strcmp((*one)->name, name) == 0)
            return *one;
    return NULL;
}

const char *recent_message(void)
{
    return has_message ? message : NULL;
}

int last_error(int take)
{
    int code = last_code;
    if (take)
        last_code = 0;
    return code;
}
