/* The threads of streams. */
#ifndef WORKER_H
#define WORKER_H

#include "stream.h"

/* With the lock: give a reference back; the last one frees. */
void stream_release(struct stream *stream);
/* A timeout in ms (negative: none) as a moment; 0 for none. */
uint64_t deadline_of(int32_t timeout_ms);

#endif
