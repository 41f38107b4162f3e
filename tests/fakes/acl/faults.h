/* Failures on command: "aclrtMalloc:3=207001", see docs/simulator.md. */
#ifndef FAULTS_H
#define FAULTS_H

#include "call.h"

/* Replace all rules; -1 if the text cannot be understood, and then nothing has changed. */
int set_faults(const char *text);

/* The code this call is to fail with, or 0; `later` gets the code of the work that it queues. */
int next_fault(const struct function *function, int *later);

#endif
