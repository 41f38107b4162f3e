/* The one lock of the simulator, and the news that a stream has got on.
 *
 * Devices, ranges, streams, events and the account change under it; bytes are moved without it. */
#ifndef STATE_H
#define STATE_H

#include <pthread.h>
#include <stdint.h>

extern pthread_mutex_t state_lock;

int lock_state(void);
void unlock_state(int *unused);

/* Hold the lock to the end of the block. */
#define GUARD() int guard_ __attribute__((cleanup(unlock_state), unused)) = lock_state()

/* With the lock: tell those who wait. */
void tell_progress(void);
/* With the lock: wait for news, to `deadline_ns` at most (0: for ever). Nonzero when it is over. */
int wait_for_progress(uint64_t deadline_ns);

/* A child of fork, while the runtime was in use: nothing may be called there. */
extern int forked;

uint64_t now_ns(void);
void sleep_until(uint64_t ns);

#endif
