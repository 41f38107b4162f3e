/* aclopCompileAndExecute: the few operators that tests need, done when their stream gets to them. */
#include "operator.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "call.h"
#include "device.h"
#include "number.h"
#include "settings.h"
#include "state.h"
#include "stream.h"

struct operator_task {
    struct task task;
    operator_function *function;
    char name[32];
    struct operation operation;
};

operator_function *operator_named(const char *name, int *n_inputs)
{
    static const struct {
        const char *name;
        operator_function *function;
        int n_inputs;
    } known[] = {
        {"ZerosLike", zeros_like, 0},
        {"OnesLike", ones_like, 0},
        {"Fill", fill_with, 2},
        {"Identity", identity, 1},
        {"Cast", cast_to, 1},
        {"TensorEqual", tensor_equal, 2},
        {"Add", add, 2},
        {"Sub", subtract, 2},
        {"Mul", multiply, 2},
        {"Transpose", transpose, 2},
        {"AsStrided", as_strided, 4},
        {"ViewCopy", view_copy, 8},
        {"Slice", slice, 3},
        {"ConcatD", concatenate, 1},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            *n_inputs = known[i].n_inputs;
            return known[i].function;
        }
    return NULL;
}

int64_t operand_count(const struct operand *operand)
{
    int64_t count = 1;
    for (int i = 0; i < operand->n_dims; i++)
        count *= operand->dims[i];
    return count;
}

int64_t operand_whole(const struct operand *operand, int64_t i)
{
    size_t nbytes = dtype_nbytes(operand->dtype);
    if ((size_t)(i + 1) * nbytes > operand->nbytes)
        return 0;
    return number_load(operand->dtype, operand->bytes + (size_t)i * nbytes).whole;
}

/* With the lock: what an operator is given. Host memory is read now, for it may change. */
static int take(struct operand *operand, const aclTensorDesc *desc, const aclDataBuffer *buffer)
{
    struct device *device = device_at(buffer->data);
    operand->dtype = desc->dtype;
    operand->n_dims = desc->n_dims;
    memcpy(operand->dims, desc->dims, sizeof operand->dims);
    operand->nbytes = buffer->nbytes;
    if (device) {
        struct range *range = list_find(&device->ranges, buffer->data);
        operand->bytes = (char *)buffer->data + device->distance;
        return range && (char *)buffer->data + buffer->nbytes <= range->start + range->span ? 0 : -1;
    }
    if (buffer->nbytes == 0)
        return 0;
    operand->bytes = operand->copy = malloc(buffer->nbytes);
    if (!operand->copy)
        abort();
    memcpy(operand->copy, buffer->data, buffer->nbytes);
    return 0;
}

static void drop(struct operation *operation)
{
    for (int i = 0; i < operation->n_inputs; i++)
        free(operation->inputs[i].copy);
    for (int i = 0; i < operation->n_outputs; i++)
        free(operation->outputs[i].copy);
}

static int run_operator(struct stream *stream, struct task *task)
{
    struct operator_task *one = (struct operator_task *)task;
    sleep_until(task_ready(stream, task) + atomic_load(&settings.operator_ns));
    int code = one->function(&one->operation) ? API_NOT_SUPPORT : 0;
    if (code)
        snprintf(task->error, sizeof task->error, "operator %s: not simulated for these operands",
                 one->name);
    stream->clock = now_ns();
    GUARD();
    counters.operators++;
    return code;
}

static void end_operator(struct stream *stream, struct task *task)
{
    (void)stream;
    drop(&((struct operator_task *)task)->operation);
}

aclError aclopCompileAndExecute(const char *name, int n_inputs, const aclTensorDesc *const *input_descs,
                                const aclDataBuffer *const *inputs, int n_outputs,
                                const aclTensorDesc *const *output_descs, aclDataBuffer *const *outputs,
                                const aclopAttr *attr, int engine, int flag, const char *path,
                                aclrtStream handle)
{
    CALL("name=%s inputs=%d outputs=%d engine=%d flag=%d stream=%p", name, n_inputs, n_outputs, engine,
         flag, handle);
    GUARD();
    int code, needed = 0;
    struct stream *stream = stream_named(call, handle, &code);
    operator_function *function = operator_named(name, &needed);
    (void)path;
    if (!stream)
        return code;
    if (!function || n_inputs < needed || n_inputs > MAX_OPERANDS || n_outputs < 1 ||
        n_outputs > MAX_OPERANDS)
        return refuse(call, API_NOT_SUPPORT,
                      "operator %s with %d inputs and %d outputs is not simulated", name, n_inputs,
                      n_outputs);
    struct operator_task *one = (struct operator_task *)task_new(sizeof *one, call, run_operator);
    one->task.end = end_operator;
    one->function = function;
    snprintf(one->name, sizeof one->name, "%s", name);
    one->operation.n_inputs = n_inputs;
    one->operation.n_outputs = n_outputs;
    if (attr)
        one->operation.attr = *attr;
    for (int i = 0; i < n_inputs; i++)
        code |= take(&one->operation.inputs[i], input_descs[i], inputs[i]);
    for (int i = 0; i < n_outputs; i++)
        code |= take(&one->operation.outputs[i], output_descs[i], outputs[i]);
    if (code) {
        drop(&one->operation);
        free(one);
        return refuse(call, RT_PARAM_INVALID, "operator %s: an operand leaves its allocation", name);
    }
    if (stream_submit(stream, &one->task))
        return refuse(call, RT_NO_STREAM_RESOURCE, "aclopCompileAndExecute: no thread for the stream");
    return done(call);
}
