/* Operators that treat each element alone. */
#include <math.h>
#include <string.h>

#include "number.h"
#include "operator.h"

static int fill_all(struct operand *out, struct number value)
{
    size_t nbytes = dtype_nbytes(out->dtype);
    int64_t count = operand_count(out);
    if (!dtype_is_number(out->dtype))
        return -1;
    for (int64_t i = 0; i < count; i++)
        number_store(out->dtype, out->bytes + (size_t)i * nbytes, value);
    return 0;
}

int zeros_like(struct operation *operation)
{
    struct operand *out = operation->outputs;
    memset(out->bytes, 0, (size_t)operand_count(out) * dtype_nbytes(out->dtype));
    return 0;
}

int ones_like(struct operation *operation)
{
    return fill_all(operation->outputs, (struct number){.whole = 1});
}

int fill_with(struct operation *operation)
{
    const struct operand *value = &operation->inputs[1];
    if (!dtype_is_number(value->dtype))
        return -1;
    return fill_all(operation->outputs, number_load(value->dtype, value->bytes));
}

int identity(struct operation *operation)
{
    const struct operand *in = operation->inputs;
    memmove(operation->outputs->bytes, in->bytes, (size_t)operand_count(in) * dtype_nbytes(in->dtype));
    return 0;
}

int cast_to(struct operation *operation)
{
    const struct operand *in = operation->inputs;
    struct operand *out = operation->outputs;
    size_t in_nbytes = dtype_nbytes(in->dtype), out_nbytes = dtype_nbytes(out->dtype);
    int64_t count = operand_count(out);
    if (!dtype_is_number(in->dtype) || !dtype_is_number(out->dtype))
        return -1;
    for (int64_t i = 0; i < count; i++)
        number_store(out->dtype, out->bytes + (size_t)i * out_nbytes,
                     number_load(in->dtype, in->bytes + (size_t)i * in_nbytes));
    return 0;
}

int tensor_equal(struct operation *operation)
{
    const struct operand *a = &operation->inputs[0], *b = &operation->inputs[1];
    int64_t count = operand_count(a);
    size_t nbytes = dtype_nbytes(a->dtype);
    char equal = a->dtype == b->dtype && count == operand_count(b);
    if (!dtype_is_number(a->dtype))
        return -1;
    for (int64_t i = 0; i < count && equal; i++) {
        struct number x = number_load(a->dtype, a->bytes + (size_t)i * nbytes);
        struct number y = number_load(b->dtype, b->bytes + (size_t)i * nbytes);
        equal = x.is_real ? x.real == y.real : x.whole == y.whole;
    }
    *operation->outputs->bytes = equal;
    return 0;
}

/* Where the element of `in` lies that goes with element `i` of `out`; single ones go with all. */
static const char *broadcast(const struct operand *in, const struct operand *out, int64_t i)
{
    int64_t step = 1, at = 0;
    int shift = out->n_dims - in->n_dims;
    for (int d = out->n_dims - 1; d >= 0; d--) {
        int64_t index = i % out->dims[d];
        i /= out->dims[d];
        if (d < shift)
            continue;
        if (in->dims[d - shift] != 1)
            at += index * step;
        step *= in->dims[d - shift];
    }
    return in->bytes + (size_t)at * dtype_nbytes(in->dtype);
}

static int combine(struct operation *operation, char sign)
{
    const struct operand *a = &operation->inputs[0], *b = &operation->inputs[1];
    struct operand *out = operation->outputs;
    size_t nbytes = dtype_nbytes(out->dtype);
    int64_t count = operand_count(out);
    if (!dtype_is_number(a->dtype) || !dtype_is_number(b->dtype) || !dtype_is_number(out->dtype))
        return -1;
    for (int64_t i = 0; i < count; i++) {
        struct number x = number_load(a->dtype, broadcast(a, out, i));
        struct number y = number_load(b->dtype, broadcast(b, out, i)), result = {0};
        uint64_t m = (uint64_t)x.whole, n = (uint64_t)y.whole;
        if (x.is_real || y.is_real) {
            double p = x.is_real ? x.real : (double)x.whole, q = y.is_real ? y.real : (double)y.whole;
            result = (struct number){1, sign == '+' ? p + q : sign == '-' ? p - q : p * q, 0};
        } else {
            result.whole = (int64_t)(sign == '+' ? m + n : sign == '-' ? m - n : m * n);
        }
        number_store(out->dtype, out->bytes + (size_t)i * nbytes, result);
    }
    return 0;
}

int add(struct operation *operation)
{
    return combine(operation, '+');
}

int subtract(struct operation *operation)
{
    return combine(operation, '-');
}

int multiply(struct operation *operation)
{
    return combine(operation, '*');
}
