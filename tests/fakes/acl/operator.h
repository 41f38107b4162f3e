/* Operators: what they get, and the functions that do them. */
#ifndef OPERATOR_H
#define OPERATOR_H

#include "tensor.h"

enum { MAX_OPERANDS = 32 };

struct operand {
    int dtype, n_dims;
    int64_t dims[MAX_DIMS];
    char *bytes;            /* where they lie */
    char *copy;             /* what was the host's, taken when the operator was queued */
    size_t nbytes;
};

struct operation {
    int n_inputs, n_outputs;
    struct operand inputs[MAX_OPERANDS], outputs[MAX_OPERANDS];
    aclopAttr attr;
};

/* Does the work; nonzero: these operands are not simulated. */
typedef int operator_function(struct operation *operation);

/* NULL: not simulated. `n_inputs` gets how many it has to be given at least. */
operator_function *operator_named(const char *name, int *n_inputs);

int64_t operand_count(const struct operand *operand);
/* The element `i` of a list of whole numbers; 0 beyond its end. */
int64_t operand_whole(const struct operand *operand, int64_t i);

/* elementwise.c */
operator_function zeros_like, ones_like, fill_with, identity, cast_to, tensor_equal, add, subtract, multiply;
/* layout.c */
operator_function transpose, as_strided, view_copy, slice, concatenate;

#endif
