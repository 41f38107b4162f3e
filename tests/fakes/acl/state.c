/* The lock, the news, the clock, and what a fork leaves of them. */
#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <time.h>

#include "start.h"

pthread_mutex_t state_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progress;
int forked;

int lock_state(void)
{
    pthread_mutex_lock(&state_lock);
    return 0;
}

void unlock_state(int *unused)
{
    (void)unused;
    pthread_mutex_unlock(&state_lock);
}

static struct timespec as_time(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

void tell_progress(void)
{
    pthread_cond_broadcast(&progress);
}

int wait_for_progress(uint64_t deadline_ns)
{
    struct timespec deadline = as_time(deadline_ns);
    if (deadline_ns == 0)
        return pthread_cond_wait(&progress, &state_lock);
    return pthread_cond_timedwait(&progress, &state_lock, &deadline);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void sleep_until(uint64_t ns)
{
    struct timespec when = as_time(ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        ;
}

static void before_fork(void)
{
    pthread_mutex_lock(&state_lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&state_lock);
}

static void in_child(void)
{
    pthread_mutex_unlock(&state_lock);
    forked = is_initialized();
}

__attribute__((constructor)) static void open_state(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&progress, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_atfork(before_fork, after_fork, in_child);
}
