/* One call of an ACL function: counted, refused on command, traced, its error kept for the thread. */
#ifndef CALL_H
#define CALL_H

#include <stdatomic.h>
#include <stdint.h>

struct function {
    const char *name;
    _Atomic uint64_t calls, refused;
};

struct call {
    struct function *function;
    uint64_t start;
    int is_innocent;       /* a refusal for want of a context is nobody's mistake */
    int later;             /* the code that the work it queues is to fail with, or 0 */
    char arguments[256];   /* "name=value name=value"; filled while there is a trace */
};

/* Nonzero is the code of an injected failure: the call has ended, without any effect. */
int begin(struct call *call, const char *arguments, ...) __attribute__((format(printf, 2, 3)));
/* End a call; both return the code. The text is what aclGetRecentErrMsg will say. */
int refuse(struct call *call, int code, const char *text, ...) __attribute__((format(printf, 3, 4)));
int done(struct call *call);

/* First line of every function: it is listed, counted and may fail on command. */
#define LISTED()                                                                                     \
    static struct function function_ = {.name = __func__};                                           \
    static struct function *const listed_ __attribute__((section("aclsim_calls"), used)) = &function_; \
    struct call call_ = {.function = &function_}, *call = &call_

#define CALL(...)                                                                                    \
    LISTED();                                                                                        \
    do {                                                                                             \
        int fault_ = begin(call, __VA_ARGS__);                                                       \
        if (fault_)                                                                                  \
            return fault_;                                                                           \
    } while (0)

/* The same where no error code is returned: a failure is `nothing`. */
#define CALL_FOR(nothing)                                                                            \
    LISTED();                                                                                        \
    do {                                                                                             \
        if (begin(call, " "))                                                                        \
            return nothing;                                                                          \
        done(call);                                                                                  \
    } while (0)

/* All functions that there are, called or not. */
extern struct function *const __start_aclsim_calls[] __attribute__((visibility("hidden")));
extern struct function *const __stop_aclsim_calls[] __attribute__((visibility("hidden")));
struct function *function_named(const char *name);

/* The thread's error: its text (NULL if none) until the next call, its code until it is taken. */
const char *recent_message(void);
int last_error(int take);

#endif
