/* The handles that are valid: a stale one is known as such without being looked into.
 *
 * All with the lock. */
#ifndef HANDLES_H
#define HANDLES_H

#include <stddef.h>

enum handle_kind { STREAM, EVENT, CONTEXT, PHYSICAL };

void handles_add(void *handle, enum handle_kind kind);
int handles_have(const void *handle, enum handle_kind kind);
void handles_remove(const void *handle);
/* The next of a kind, from `*position` on (0 at first); NULL after the last. */
void *handles_next(enum handle_kind kind, size_t *position);

#endif
