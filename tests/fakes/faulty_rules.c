/* The rules of faulty_io.c: read from the environment, counted, looked up for every call. */
#define _GNU_SOURCE
#include "faulty_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RULES = 16, TEXT = 96 };
enum { LOG = KILL + 1, HOLD };

struct rule {
    char call[TEXT], path[TEXT];
    long first, onward, value, seen;
    int action;
};

static struct rule rules[RULES];
static int n_rules;
int with_fake_ring;

static void parse(char *line)
{
    static const struct { const char *name; int action; } actions[] = {
        {"fail", FAIL}, {"short", SHORT}, {"kill", KILL}, {"log", LOG}, {"hold", HOLD}};
    struct rule *rule = &rules[n_rules];
    char action[TEXT] = "";
    if (strcmp(line, "fake_ring") == 0) {
        with_fake_ring = 1;
        return;
    }
    memset(rule, 0, sizeof *rule);
    int got = sscanf(line, "%95[^@:]@%95[^:]:%ld", rule->call, rule->path, &rule->first);
    if (got == 1)
        got = 1 + sscanf(line, "%*[^:]:%ld", &rule->first);
    char *last = strrchr(line, ':');
    if (got < 2 || rule->first < 1 || !last || n_rules == RULES) {
        fprintf(stderr, "faulty_io: cannot read the rule %s\n", line);
        abort();
    }
    rule->onward = last[-1] == '+';
    sscanf(last + 1, "%95[a-z]=%ld", action, &rule->value);
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(action, actions[i].name) == 0)
            rule->action = actions[i].action;
    if (!rule->action) {
        fprintf(stderr, "faulty_io: no such action: %s\n", line);
        abort();
    }
    n_rules++;
}

/* Take the rules from the environment; called at the start, and by a test's child after a fork. */
__attribute__((constructor)) void faulty_io_set(void)
{
    const char *text = getenv("FAULTY_IO");
    char copy[RULES * 2 * TEXT], *rest = NULL;
    n_rules = with_fake_ring = 0;
    snprintf(copy, sizeof copy, "%s", text ? text : "");
    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        parse(line);
}

static int is_step(const char *call)
{
    static const char *steps[] = {"pwrite", "write", "fsync", "fsync_folder", "rename", "exchange",
                                  "mkdir", "unlink", "create", "fallocate", "truncate"};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (strcmp(call, steps[i]) == 0)
            return 1;
    return 0;
}

static void write_log(const char *call, long long offset, size_t nbytes, const char *where)
{
    const char *path = getenv("FAULTY_IO_LOG");
    char line[2 * PATH_MAX];
    int n = snprintf(line, sizeof line, "%s %lld %zu %s\n", call, offset, nbytes, where);
    int fd = path ? (int)real_syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (fd < 0 || real_syscall(SYS_write, fd, line, n) != n)
        abort();
    real_syscall(SYS_close, fd);
}

static void hold(void)
{
    const char *gate = getenv("FAULTY_IO_GATE");
    while (gate && real_syscall(SYS_faccessat, AT_FDCWD, gate, F_OK) != 0)
        usleep(2000);
}

struct verdict decide(const char *call, int fd, const char *path, long long offset, size_t nbytes)
{
    struct verdict verdict = {PASS, 0};
    char link[64], where[2 * PATH_MAX] = "";
    int known = 0, saved = errno;
    for (int i = 0; i < n_rules; i++) {
        struct rule *rule = &rules[i];
        if (strcmp(rule->call, call) != 0 && !(strcmp(rule->call, "step") == 0 && is_step(call)))
            continue;
        if (!known) {
            known = 1;
            snprintf(where, sizeof where, "%s", path ? path : "");
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            long n = path ? 0 : real_syscall(SYS_readlinkat, AT_FDCWD, link, where, sizeof where - 1);
            if (n > 0)
                where[n] = 0;
        }
        if (!strstr(where, rule->path))
            continue;
        long seen = __atomic_add_fetch(&rule->seen, 1, __ATOMIC_RELAXED);
        if (seen != rule->first && !(rule->onward && seen > rule->first))
            continue;
        if (rule->action == LOG)
            write_log(call, offset, nbytes, where);
        else if (rule->action == HOLD)
            hold();
        else if (verdict.kind == PASS)
            verdict = (struct verdict){rule->action, rule->value};
    }
    errno = saved;
    return verdict;
}

