/* The account: what has been done, what lives, what was done wrongly. */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include <stddef.h>
#include <stdint.h>

struct move;

struct counters {
    uint64_t nbytes[4];             /* by direction, as link.h numbers them */
    uint64_t async_copies, sync_copies, pageable_copies, corrupted_copies;
    uint64_t operators;
    uint64_t violations;
};

extern struct counters counters;    /* with the lock */

/* With the lock: something that the real runtime would not have noticed, and that was wrong. */
void violation(const char *text, ...) __attribute__((format(printf, 1, 2)));

/* Without the lock. */
void count_moved(const struct move *move, size_t nbytes);
void count_injected(void);
void count_wrong_thread(void);

/* Where the account is written to at exit; 0. */
int report_to(const char *path);

#endif
