/* ACLSIM_TRACE: one JSON object per line for each call, and for each copy when its bytes moved. */
#ifndef TRACE_H
#define TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "call.h"

int open_trace(const char *path);
int is_tracing(void);
void trace_call(const struct call *call, int code);

/* A copy that has run, or a part of it was refused: `direction` is "h2d", "d2h" … */
void trace_copy(const char *direction, int device, int stream, size_t nbytes, uint64_t start,
                uint64_t end, int code);

#endif
