/* Operators that move elements and leave them as they are. */
#include <string.h>

#include "number.h"
#include "operator.h"

/* The place of element `i` of a tensor of these sizes, by strides. */
static int64_t place(int64_t i, int n_dims, const int64_t *dims, const int64_t *strides)
{
    int64_t at = 0;
    for (int d = n_dims - 1; d >= 0; d--) {
        at += i % dims[d] * strides[d];
        i /= dims[d];
    }
    return at;
}

static void contiguous(const struct operand *operand, int64_t *strides)
{
    int64_t step = 1;
    for (int d = operand->n_dims - 1; d >= 0; d--) {
        strides[d] = step;
        step *= operand->dims[d];
    }
}

static void read_wholes(const struct operand *operand, int n, int64_t *values)
{
    for (int i = 0; i < n; i++)
        values[i] = operand_whole(operand, i);
}

/* Elements of `in`, by strides from `offset` on, to `out` in order. */
static int gather(const struct operand *in, struct operand *out, const int64_t *strides, int64_t offset)
{
    size_t nbytes = dtype_nbytes(in->dtype);
    int64_t count = operand_count(out), limit = (int64_t)(in->nbytes / (nbytes ? nbytes : 1));
    if (!nbytes)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = offset + place(i, out->n_dims, out->dims, strides);
        if (at < 0 || at >= limit)
            return -1;
        memcpy(out->bytes + (size_t)i * nbytes, in->bytes + (size_t)at * nbytes, nbytes);
    }
    return 0;
}

int transpose(struct operation *operation)
{
    const struct operand *in = &operation->inputs[0];
    int64_t own[MAX_DIMS], order[MAX_DIMS], strides[MAX_DIMS];
    contiguous(in, own);
    read_wholes(&operation->inputs[1], in->n_dims, order);
    for (int d = 0; d < in->n_dims; d++) {
        if (order[d] < 0 || order[d] >= in->n_dims)
            return -1;
        strides[d] = own[order[d]];
    }
    return gather(in, operation->outputs, strides, 0);
}

int as_strided(struct operation *operation)
{
    struct operand *out = operation->outputs;
    int64_t strides[MAX_DIMS];
    read_wholes(&operation->inputs[2], out->n_dims, strides);
    return gather(operation->inputs, out, strides, operand_whole(&operation->inputs[3], 0));
}

int slice(struct operation *operation)
{
    const struct operand *in = operation->inputs;
    int64_t strides[MAX_DIMS], begin[MAX_DIMS], offset = 0;
    contiguous(in, strides);
    read_wholes(&operation->inputs[1], in->n_dims, begin);
    for (int d = 0; d < in->n_dims; d++)
        offset += begin[d] * strides[d];
    return gather(in, operation->outputs, strides, offset);
}

/* Inputs: destination, its sizes, strides and offset; source, its sizes, strides and offset. */
int view_copy(struct operation *operation)
{
    const struct operand *in = &operation->inputs[4];
    struct operand *out = operation->outputs;
    size_t nbytes = dtype_nbytes(out->dtype);
    int n_dims = (int)operand_count(&operation->inputs[1]);
    int64_t dims[MAX_DIMS], to[MAX_DIMS], from[MAX_DIMS], count = 1;
    int64_t to_offset = operand_whole(&operation->inputs[3], 0);
    int64_t from_offset = operand_whole(&operation->inputs[7], 0);
    if (n_dims > MAX_DIMS || in->dtype != out->dtype || !nbytes)
        return -1;
    read_wholes(&operation->inputs[1], n_dims, dims);
    read_wholes(&operation->inputs[2], n_dims, to);
    read_wholes(&operation->inputs[6], n_dims, from);
    for (int d = 0; d < n_dims; d++)
        count *= dims[d];
    for (int64_t i = 0; i < count; i++) {
        int64_t at = to_offset + place(i, n_dims, dims, to);
        int64_t read_at = from_offset + place(i, n_dims, dims, from);
        if (at < 0 || (size_t)(at + 1) * nbytes > out->nbytes || read_at < 0 ||
            (size_t)(read_at + 1) * nbytes > in->nbytes)
            return -1;
        memmove(out->bytes + (size_t)at * nbytes, in->bytes + (size_t)read_at * nbytes, nbytes);
    }
    return 0;
}

int concatenate(struct operation *operation)
{
    struct operand *out = operation->outputs;
    int64_t dim = attribute_or(&operation->attr, "concat_dim", 0), outer = 1, inner = 1;
    size_t nbytes = dtype_nbytes(out->dtype), done = 0;
    if (dim < 0)
        dim += out->n_dims;
    if (dim < 0 || dim >= out->n_dims || !nbytes)
        return -1;
    for (int d = 0; d < out->n_dims; d++) {
        outer *= d < dim ? out->dims[d] : 1;
        inner *= d > dim ? out->dims[d] : 1;
    }
    size_t row = (size_t)(inner * out->dims[dim]) * nbytes;
    for (int n = 0; n < operation->n_inputs; n++) {
        const struct operand *in = &operation->inputs[n];
        if (in->n_dims != out->n_dims || in->dtype != out->dtype)
            return -1;
        size_t piece = (size_t)(inner * in->dims[dim]) * nbytes;
        for (int64_t i = 0; i < outer; i++)
            memcpy(out->bytes + (size_t)i * row + done, in->bytes + (size_t)i * piece, piece);
        done += piece;
    }
    return 0;
}
