/* Single elements of tensors. */
#ifndef NUMBER_H
#define NUMBER_H

#include <stddef.h>
#include <stdint.h>

/* Whole numbers stay whole: a double has no room for all of int64. */
struct number {
    int is_real;
    double real;
    int64_t whole;
};

/* Bytes of an element; 0 for a dtype that is not simulated. */
size_t dtype_nbytes(int dtype);
/* Can single elements of it be read? Others can only be moved. */
int dtype_is_number(int dtype);
struct number number_load(int dtype, const char *at);
void number_store(int dtype, char *at, struct number number);

#endif
