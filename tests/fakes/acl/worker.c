/* One thread for each stream that has ever had work: it does the tasks in order, and late. */
#define _GNU_SOURCE
#include "worker.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "account.h"
#include "settings.h"
#include "state.h"

enum { STACK_NBYTES = 256 << 10 };

void stream_release(struct stream *stream)
{
    if (--stream->refs > 0)
        return;
    pthread_cond_destroy(&stream->wake);
    free(stream);
}

struct task *task_new(size_t nbytes, struct call *call, int (*run)(struct stream *, struct task *))
{
    struct task *task = calloc(1, nbytes);
    if (!task)
        abort();
    task->call = call->function->name;
    task->later = call->later;
    task->run = run;
    return task;
}

uint64_t task_ready(const struct stream *stream, const struct task *task)
{
    return stream->clock > task->earliest ? stream->clock : task->earliest;
}

/* With the lock, which is given up while the task runs. */
static void run(struct stream *stream, struct task *task)
{
    int code = 0;
    if (stream->is_forced || (stream->failure && stream->stops_on_failure))
        return;
    unlock_state(NULL);
    if (task->later) {
        sleep_until(task_ready(stream, task));
        snprintf(task->error, sizeof task->error, "%s has failed while it ran: injected failure %d",
                 task->call, task->later);
        code = task->later;
    } else if (task->run) {
        code = task->run(stream, task);
    } else {
        sleep_until(task_ready(stream, task));
    }
    if (task->later)
        count_injected();
    lock_state();
    if (code && !stream->failure) {
        stream->failure = code;
        snprintf(stream->failure_text, sizeof stream->failure_text, "%s", task->error);
    }
}

static void *work(void *argument)
{
    struct stream *stream = argument;
    prctl(PR_SET_NAME, "aclsim-stream");
    prctl(PR_SET_TIMERSLACK, 1000UL); /* the due times of a paced link are met to some µs */
    GUARD();
    for (;;) {
        struct task *task = stream->first;
        if (!task) {
            if (stream->is_ending)
                break;
            pthread_cond_wait(&stream->wake, &state_lock);
            continue;
        }
        run(stream, task);
        /* In one step for all who look: the task's effect, the stream's count, the news. */
        stream->first = task->next;
        if (!stream->first)
            stream->last = &stream->first;
        if (task->end)
            task->end(stream, task);
        stream->done = task->number;
        free(task);
        tell_progress();
    }
    stream_release(stream);
    return NULL;
}

/* Signals are for the threads of the caller. */
static int start(struct stream *stream)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_NBYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&thread, &attributes, work, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return code;
}

int stream_submit(struct stream *stream, struct task *task)
{
    if (!stream->is_started) {
        stream->refs++;
        if (start(stream) != 0) {
            stream->refs--;
            if (task->end)
                task->end(stream, task);
            free(task);
            return -1;
        }
        stream->is_started = 1;
    }
    task->submitted = now_ns();
    task->earliest = task->submitted + atomic_load(&settings.delay_ns);
    task->number = ++stream->submitted;
    *stream->last = task;
    stream->last = &task->next;
    pthread_cond_signal(&stream->wake);
    return 0;
}
