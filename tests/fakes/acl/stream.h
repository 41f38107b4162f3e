/* A stream: tasks in order, done one after the other by a thread of its own. */
#ifndef STREAM_H
#define STREAM_H

#include <pthread.h>
#include <stdint.h>

#include "call.h"
#include "device.h"

struct task {
    struct task *next;
    uint64_t number;            /* its place in the stream, from 1 on */
    uint64_t submitted;         /* ns */
    uint64_t earliest;          /* ACLSIM_DELAY_US after that */
    int later;                  /* the code it is to fail with, by command */
    const char *call;
    /* Without the lock; gives a code, and a text with it. */
    int (*run)(struct stream *stream, struct task *task);
    /* With the lock, at the moment the stream gets on past the task, whether it ran or not. */
    void (*end)(struct stream *stream, struct task *task);
    char error[160];
};

struct stream {
    struct context *context;
    struct device *device;
    const char *call;
    int id;
    uint32_t flags;
    int stops_on_failure;
    int refs;
    int is_started, is_ending, is_forced;
    pthread_cond_t wake;
    struct task *first, **last;
    uint64_t submitted, done;   /* tasks */
    uint64_t clock;             /* when, by its links, it is through with what it has done; ns */
    int failure;                /* the first failure that no one has been told yet */
    char failure_text[160];
};

/* The stream that a caller means: NULL after a refusal, which `code` gets. */
struct stream *stream_named(struct call *call, void *handle, int *code);
/* Hand a task over, which the stream frees; nonzero: there is no thread for it, the task is freed. */
int stream_submit(struct stream *stream, struct task *task);
struct task *task_new(size_t nbytes, struct call *call, int (*run)(struct stream *, struct task *));
/* Wait until it has done all it has now; nonzero: the deadline has passed. */
int stream_wait(struct stream *stream, uint64_t deadline_ns);
/* Wait, and tell of a failure. Ends the call unless all is well (0). */
int stream_settle(struct call *call, struct stream *stream, int32_t timeout_ms);
/* Take it from its owner: what is queued is done first, or dropped. */
void stream_end(struct stream *stream, int is_forced);
void streams_drain(struct device *device);

/* When a task may begin: not before the one before it has ended, nor before its delay is over. */
uint64_t task_ready(const struct stream *stream, const struct task *task);

#endif
