/* The rules of failures: read, counted, looked up at every call. */
#include "faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acl_sim.h"

enum { RULES = 64 };

struct rule {
    const struct function *function;
    long first, seen;
    int onward;     /* the first and all after it */
    int later;      /* not the call but what it queues */
    int code;
};

static pthread_mutex_t rules_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[RULES];
static int n_rules;
static _Atomic int any_rules;

/* Functions that queue work, which can fail once it runs. */
static int queues_work(const char *name)
{
    static const char *const names[] = {
        "aclrtMemcpyAsync", "aclrtMemcpyAsyncWithCondition", "aclrtMemsetAsync",
        "aclrtMemcpyBatchAsync", "aclrtMemcpyBatchAsyncV2", "aclopCompileAndExecute"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}

/* One "[@]function:when=code", where when is "3", "3+" or "*". */
static int parse_rule(char *text, struct rule *rule)
{
    char *when = strchr(text, ':'), *code = strchr(text, '='), *end;
    memset(rule, 0, sizeof *rule);
    if (!when || !code || code < when)
        return -1;
    *when++ = *code++ = 0;
    rule->later = *text == '@';
    rule->function = function_named(text + rule->later);
    if (!rule->function || (rule->later && !queues_work(rule->function->name)))
        return -1;
    if (strcmp(when, "*") == 0) {
        rule->first = rule->onward = 1;
    } else {
        rule->first = strtol(when, &end, 10);
        rule->onward = *end == '+';
        if (end == when || end[rule->onward] || rule->first < 1)
            return -1;
    }
    rule->code = (int)strtol(code, &end, 10);
    return end == code || *end || rule->code <= 0 ? -1 : 0;
}

int set_faults(const char *text)
{
    struct rule found[RULES];
    int n = 0;
    char *copy = strdup(text ? text : ""), *rest = NULL;
    for (char *one = strtok_r(copy, ",", &rest); one; one = strtok_r(NULL, ",", &rest))
        if (n == RULES || parse_rule(one, &found[n++])) {
            free(copy);
            return -1;
        }
    free(copy);
    pthread_mutex_lock(&rules_lock);
    memcpy(rules, found, sizeof *rules * (size_t)n);
    n_rules = n;
    atomic_store(&any_rules, n);
    pthread_mutex_unlock(&rules_lock);
    return 0;
}

API int aclsim_fail(const char *text)
{
    return set_faults(text);
}

int next_fault(const struct function *function, int *later)
{
    int code = 0;
    if (atomic_load(&any_rules) == 0)
        return 0;
    pthread_mutex_lock(&rules_lock);
    for (int i = 0; i < n_rules; i++) {
        struct rule *rule = &rules[i];
        if (rule->function != function)
            continue;
        rule->seen++;
        if (rule->seen != rule->first && !(rule->onward && rule->seen > rule->first))
            continue;
        if (rule->later)
            *later = *later ? *later : rule->code;
        else
            code = code ? code : rule->code;
    }
    pthread_mutex_unlock(&rules_lock);
    return code;
}
