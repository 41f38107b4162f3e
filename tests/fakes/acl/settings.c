/* ACLSIM_* to struct settings; names and values that are not understood end the process at once. */
#define _GNU_SOURCE
#include "settings.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "account.h"
#include "acl_sim.h"
#include "faults.h"
#include "trace.h"

struct settings settings;

/* "64", "16K", "512M", "24G": bytes. */
static int parse_nbytes(const char *text, uint64_t *nbytes)
{
    char *end;
    errno = 0;
    *nbytes = strtoull(text, &end, 10);
    if (end == text || *text == '-' || errno)
        return -1;
    const char *unit = *end ? strchr("KMG", *end) : NULL;
    if (unit) {
        *nbytes <<= *unit == 'K' ? 10 : *unit == 'M' ? 20 : 30;
        end++;
    }
    return *end ? -1 : 0;
}

static int parse_number(const char *text, double *number)
{
    char *end;
    *number = strtod(text, &end);
    return end == text || *end || !isfinite(*number) || *number < 0 ? -1 : 0;
}

/* "2.5" or "2.5,1": GB/s of each device, the last one for all that follow. */
static int set_rates(_Atomic uint64_t *rates, const char *text)
{
    char copy[256], *rest = NULL;
    uint64_t found[MAX_DEVICES];
    int n = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *one = strtok_r(copy, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        double rate;
        if (n == MAX_DEVICES || parse_number(one, &rate))
            return -1;
        found[n++] = (uint64_t)(rate * 1e9);
    }
    if (n == 0)
        return -1;
    for (int device = 0; device < MAX_DEVICES; device++)
        atomic_store(&rates[device], found[device < n ? device : n - 1]);
    return 0;
}

static int set_time(_Atomic uint64_t *ns, const char *text, double unit)
{
    double number;
    if (parse_number(text, &number))
        return -1;
    atomic_store(ns, (uint64_t)(number * unit));
    return 0;
}

static int set_word(int *value, const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0) {
            *value = i;
            return 0;
        }
    return -1;
}

/* What may change while running; 1 if it is none of these. */
static int set_running(const char *name, const char *value)
{
    static const char *const words[] = {"sync", "corrupt", NULL};
    int word;
    if (strcmp(name, "H2D") == 0)
        return set_rates(settings.h2d, value);
    if (strcmp(name, "D2H") == 0)
        return set_rates(settings.d2h, value);
    if (strcmp(name, "LATENCY_US") == 0)
        return set_time(&settings.latency_ns, value, 1e3);
    if (strcmp(name, "DELAY_US") == 0)
        return set_time(&settings.delay_ns, value, 1e3);
    if (strcmp(name, "OPERATOR_US") == 0)
        return set_time(&settings.operator_ns, value, 1e3);
    if (strcmp(name, "UNPINNED") == 0) {
        if (set_word(&word, value, words))
            return -1;
        atomic_store(&settings.unpinned, word);
        return 0;
    }
    return 1;
}

API int aclsim_set(const char *name, const char *value)
{
    return set_running(name, value) == 0 ? 0 : -1;
}

static int set_starting(const char *name, const char *value)
{
    static const char *const modes[] = {"ep", "rc", NULL};
    static const char *const backings[] = {"anonymous", "memfd", "secret", NULL};
    static const char *const pinned[] = {"plain", "secret", NULL};
    double number;
    uint64_t nbytes;
    if (strcmp(name, "DEVICES") == 0) {
        if (parse_nbytes(value, &nbytes) || nbytes > MAX_DEVICES)
            return -1;
        settings.devices = (int)nbytes;
    } else if (strcmp(name, "MEMORY") == 0) {
        return parse_nbytes(value, &settings.memory) || settings.memory == 0 ? -1 : 0;
    } else if (strcmp(name, "POPULATE") == 0) {
        return parse_nbytes(value, &settings.populate);
    } else if (strcmp(name, "ALIGNMENT") == 0) {
        if (parse_nbytes(value, &nbytes) || nbytes > 4096 || (nbytes & (nbytes - 1)))
            return -1;
        settings.alignment = (int)nbytes;
    } else if (strcmp(name, "START_MS") == 0) {
        if (parse_number(value, &number))
            return -1;
        settings.start_ns = (uint64_t)(number * 1e6);
    } else if (strcmp(name, "SOC") == 0) {
        snprintf(settings.soc, sizeof settings.soc, "%s", value);
    } else if (strcmp(name, "DRIVER") == 0) {
        snprintf(settings.driver, sizeof settings.driver, "%s", value);
    } else if (strcmp(name, "RUN_MODE") == 0) {
        return set_word(&settings.is_rc, value, modes);
    } else if (strcmp(name, "BACKING") == 0) {
        return set_word(&settings.backing, value, backings);
    } else if (strcmp(name, "PINNED") == 0) {
        return set_word(&settings.pinned_secret, value, pinned);
    } else if (strcmp(name, "TRACE") == 0) {
        return open_trace(value);
    } else if (strcmp(name, "REPORT") == 0) {
        return report_to(value);
    } else if (strcmp(name, "FAIL") == 0) {
        return set_faults(value);
    } else {
        return -1;
    }
    return 0;
}

static const char *driver_of(int64_t number)
{
    return number < CANN(8, 0, 0)      ? "23.0.3"
           : number < CANN_RC(8, 1, 1) ? "24.1.0"
           : number < CANN_RC(8, 3, 1) ? "25.0.rc1"
           : number < CANN(8, 5, 0)    ? "25.3.rc1"
           : number < CANN(9, 1, 0)    ? "25.5.0"
                                       : "26.0.0";
}

static void set_defaults(void)
{
    const char *soc = getenv("ACLSIM_SOC");
    settings.devices = 1;
    settings.memory = 16ULL << 30;
    settings.pinned_secret = 1;
    settings.alignment = cann_number < CANN(8, 5, 0) ? 64 : 0;
    settings.unpinned = cann_number < CANN_RC(8, 3, 1) ? UNPINNED_CORRUPT : UNPINNED_SYNC;
    settings.is_rc = soc && strncmp(soc, "Ascend310B", 10) == 0;
    snprintf(settings.soc, sizeof settings.soc, "Ascend910B3");
    snprintf(settings.driver, sizeof settings.driver, "%s", driver_of(cann_number));
}

__attribute__((constructor(201))) static void read_settings(void)
{
    static const char prefix[] = "ACLSIM_";
    set_defaults();
    for (char **one = environ; *one; one++) {
        char name[64];
        const char *equals = strchr(*one, '=');
        if (strncmp(*one, prefix, sizeof prefix - 1) != 0 || !equals)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - *one - (int)sizeof prefix + 1),
                 *one + sizeof prefix - 1);
        int result = set_running(name, equals + 1);
        if (result == 0 || (result == 1 && set_starting(name, equals + 1) == 0))
            continue;
        fprintf(stderr, "aclsim: cannot understand %s\n", *one);
        abort();
    }
}
