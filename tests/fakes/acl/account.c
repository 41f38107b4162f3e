/* Counters, and the account as JSON. */
#include "account.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acl_sim.h"
#include "device.h"
#include "event.h"
#include "handles.h"
#include "host.h"
#include "move.h"
#include "state.h"
#include "text.h"
#include "virtual.h"

enum { KEPT = 64, LISTED_AT_MOST = 1000 };

struct counters counters;
static char violations[KEPT][200];
static _Atomic uint64_t injected, wrong_threads;
static char report_path[4096];

static unsigned long long number(uint64_t n)
{
    return n;
}

void violation(const char *text, ...)
{
    va_list list;
    va_start(list, text);
    if (counters.violations < KEPT)
        vsnprintf(violations[counters.violations], sizeof violations[0], text, list);
    va_end(list);
    counters.violations++;
}

void count_moved(const struct move *move, size_t nbytes)
{
    GUARD();
    counters.nbytes[move->direction] += nbytes;
    if (move->direction <= D2H)
        move->link->link_nbytes[move->direction] += nbytes;
}

void count_injected(void)
{
    atomic_fetch_add(&injected, 1);
}

void count_wrong_thread(void)
{
    atomic_fetch_add(&wrong_threads, 1);
}

static void add_devices(struct text *text)
{
    text_add(text, "\"devices\":[");
    for (int i = 0; i < device_count(); i++) {
        const struct device *device = &devices[i];
        size_t position = 0;
        int contexts = device->primary.is_active;
        for (struct context *one; (one = handles_next(CONTEXT, &position));)
            contexts += one->device == device;
        text_add(
            text,
            "%s{\"id\":%d,\"physical\":%d,\"memory\":%llu,\"used_nbytes\":%llu,\"peak_nbytes\":%llu,"
            "\"h2d_nbytes\":%llu,\"d2h_nbytes\":%llu,\"streams\":%d,\"events\":%d,\"contexts\":%d}",
            i ? "," : "", i, device->physical, number(device->memory), number(device->used),
            number(device->peak), number(device->link_nbytes[0]), number(device->link_nbytes[1]),
            device->streams, device->events, contexts);
    }
    text_add(text, "]");
}

/* The ranges of a kind on one list; `n` counts what is listed. */
static void add_ranges(struct text *text, const struct list *list, enum range_kind kind, int *n)
{
    for (size_t i = 0; i < list->count; i++) {
        const struct range *range = list->items[i];
        if (range->kind != kind || *n == LISTED_AT_MOST)
            continue;
        text_add(text, "%s{\"address\":%llu,\"nbytes\":%llu,\"device\":%d,\"serial\":%llu,\"call\":",
                 (*n)++ ? "," : "", number((uintptr_t)range->start), number(range->nbytes),
                 range->device, number(range->serial));
        text_quoted(text, range->call);
        text_add(text, "}");
    }
}

static void add_live_ranges(struct text *text, const char *name, enum range_kind kind)
{
    int n = 0;
    text_quoted(text, name);
    text_add(text, ":[");
    add_ranges(text, &host_ranges, kind, &n);
    for (int i = 0; i < device_count(); i++) {
        add_ranges(text, &devices[i].ranges, kind, &n);
        add_ranges(text, &devices[i].mapped, kind, &n);
    }
    text_add(text, "],");
}

static void add_handle(struct text *text, void *handle, enum handle_kind kind)
{
    if (kind == STREAM) {
        const struct stream *stream = handle;
        text_add(text, "{\"device\":%d,\"id\":%d,\"pending\":%llu,\"call\":\"%s\"}", stream->device->id,
                 stream->id, number(stream->submitted - stream->done), stream->call);
    } else if (kind == EVENT) {
        const struct event *event = handle;
        text_add(text, "{\"device\":%d,\"flags\":%u,\"call\":\"%s\"}", event->device, event->flags,
                 event->call);
    } else if (kind == CONTEXT) {
        const struct context *context = handle;
        text_add(text, "{\"device\":%d,\"call\":\"%s\"}", context->device->id, context->call);
    } else {
        const struct physical *physical = handle;
        text_add(text, "{\"device\":%d,\"nbytes\":%zu,\"call\":\"aclrtMallocPhysical\"}",
                 physical->device, physical->nbytes);
    }
}

static void add_live_handles(struct text *text, const char *name, enum handle_kind kind, const char *end)
{
    size_t position = 0;
    int n = 0;
    text_quoted(text, name);
    text_add(text, ":[");
    for (void *handle; n < LISTED_AT_MOST && (handle = handles_next(kind, &position));) {
        text_add(text, "%s", n++ ? "," : "");
        add_handle(text, handle, kind);
    }
    text_add(text, "]%s", end);
}

/* Functions by how often they were called, or refused. */
static void add_functions(struct text *text, const char *name, int is_refused)
{
    const char *comma = "";
    text_quoted(text, name);
    text_add(text, ":{");
    for (struct function *const *one = __start_aclsim_calls; one < __stop_aclsim_calls; one++) {
        uint64_t n = atomic_load(is_refused ? &(*one)->refused : &(*one)->calls);
        if (n) {
            text_add(text, "%s\"%s\":%llu", comma, (*one)->name, number(n));
            comma = ",";
        }
    }
    text_add(text, "}");
}

static void add_account(struct text *text)
{
    text_add(text, "{\"cann\":\"%s\",\"strict\":%s,\"run_mode\":\"%s\",\"soc\":", cann_version,
             cann_strict ? "true" : "false", settings.is_rc ? "rc" : "ep");
    text_quoted(text, settings.soc);
    text_add(text, ",\"pinned_backing\":\"%s\",", pinned_backing());
    add_devices(text);
    text_add(text, ",\"live\":{");
    add_live_ranges(text, "device", DEVICE_MEMORY);
    add_live_ranges(text, "host", PINNED_MEMORY);
    add_live_ranges(text, "registered", REGISTERED_MEMORY);
    add_live_ranges(text, "reserved", RESERVED);
    add_live_ranges(text, "mapped", MAPPED);
    add_live_handles(text, "physical", PHYSICAL, ",");
    add_live_handles(text, "streams", STREAM, ",");
    add_live_handles(text, "events", EVENT, ",");
    add_live_handles(text, "contexts", CONTEXT, "},");
    text_add(
        text,
        "\"h2d_nbytes\":%llu,\"d2h_nbytes\":%llu,\"d2d_nbytes\":%llu,\"h2h_nbytes\":%llu,"
        "\"async_copies\":%llu,\"sync_copies\":%llu,\"pageable_copies\":%llu,\"corrupted_copies\":%llu,"
        "\"operators\":%llu,\"injected\":%llu,\"wrong_thread_calls\":%llu,\"violation_count\":%llu,",
        number(counters.nbytes[H2D]), number(counters.nbytes[D2H]), number(counters.nbytes[D2D]),
        number(counters.nbytes[H2H]), number(counters.async_copies), number(counters.sync_copies),
        number(counters.pageable_copies), number(counters.corrupted_copies), number(counters.operators),
        number(atomic_load(&injected)), number(atomic_load(&wrong_threads)),
        number(counters.violations));
    text_add(text, "\"violations\":[");
    for (uint64_t i = 0; i < counters.violations && i < KEPT; i++) {
        text_add(text, "%s", i ? "," : "");
        text_quoted(text, violations[i]);
    }
    text_add(text, "],");
    add_functions(text, "calls", 0);
    text_add(text, ",");
    add_functions(text, "refused", 1);
    text_add(text, "}");
}

API size_t aclsim_account(char *json, size_t nbytes)
{
    GUARD();
    struct text text = {0};
    add_account(&text);
    size_t needed = text.nbytes + 1;
    if (json && nbytes) {
        size_t n = text.nbytes < nbytes ? text.nbytes : nbytes - 1;
        memcpy(json, text.at, n);
        json[n] = 0;
    }
    text_free(&text);
    return needed;
}

API void aclsim_reset_counters(void)
{
    GUARD();
    memset(&counters, 0, sizeof counters);
    atomic_store(&injected, 0);
    atomic_store(&wrong_threads, 0);
    for (int i = 0; i < device_count(); i++) {
        devices[i].peak = devices[i].used;
        devices[i].link_nbytes[0] = devices[i].link_nbytes[1] = 0;
    }
    for (struct function *const *one = __start_aclsim_calls; one < __stop_aclsim_calls; one++) {
        atomic_store(&(*one)->calls, 0);
        atomic_store(&(*one)->refused, 0);
    }
}

int report_to(const char *path)
{
    snprintf(report_path, sizeof report_path, "%s", path);
    return 0;
}

/* After the callers' own ends, which are run before those of the libraries they depend on. */
__attribute__((destructor)) static void write_report(void)
{
    struct text text = {0};
    if (!*report_path || forked)
        return;
    FILE *file = fopen(report_path, "we");
    if (!file)
        return;
    {
        GUARD();
        add_account(&text);
    }
    fwrite(text.at, 1, text.nbytes, file);
    fputc('\n', file);
    fclose(file);
    text_free(&text);
}
