/* Lines of the trace, each written whole, so that a process that crashes leaves all up to then. */
#define _GNU_SOURCE
#include "trace.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "state.h"
#include "text.h"

static FILE *file;
static pthread_mutex_t file_lock = PTHREAD_MUTEX_INITIALIZER;

int open_trace(const char *path)
{
    file = fopen(path, "ae");
    return file ? 0 : -1;
}

int is_tracing(void)
{
    return file != NULL;
}

static void write_line(struct text *line)
{
    text_add(line, "}\n");
    pthread_mutex_lock(&file_lock);
    fwrite(line->at, 1, line->nbytes, file);
    fflush(file);
    pthread_mutex_unlock(&file_lock);
    text_free(line);
}

/* "a=1 b=0x7f" becomes {"a":1,"b":"0x7f"}. */
static void add_arguments(struct text *line, const char *arguments)
{
    char copy[256], *rest = NULL;
    const char *comma = "";
    snprintf(copy, sizeof copy, "%s", arguments);
    text_add(line, ",\"args\":{");
    for (char *one = strtok_r(copy, " ", &rest); one; one = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(one, '=');
        if (!value)
            continue;
        *value++ = 0;
        text_add(line, "%s", comma);
        text_quoted(line, one);
        text_add(line, ":");
        if (value[strspn(value, "-0123456789")] == 0 && *value)
            text_add(line, "%s", value);
        else
            text_quoted(line, value);
        comma = ",";
    }
    text_add(line, "}");
}

void trace_call(const struct call *call, int code)
{
    struct text line = {0};
    if (!file || forked)
        return;
    text_add(&line, "{\"call\":");
    text_quoted(&line, call->function->name);
    text_add(&line, ",\"thread\":%d,\"start\":%llu,\"end\":%llu,\"result\":%d", gettid(),
             (unsigned long long)call->start, (unsigned long long)now_ns(), code);
    add_arguments(&line, call->arguments);
    write_line(&line);
}

void trace_copy(const char *direction, int device, int stream, size_t nbytes, uint64_t start,
                uint64_t end, int code)
{
    struct text line = {0};
    if (!file)
        return;
    text_add(&line, "{\"ran\":");
    text_quoted(&line, direction);
    text_add(&line,
             ",\"device\":%d,\"stream\":%d,\"nbytes\":%zu,\"start\":%llu,\"end\":%llu,\"result\":%d",
             device, stream, nbytes, (unsigned long long)start, (unsigned long long)end, code);
    write_line(&line);
}
