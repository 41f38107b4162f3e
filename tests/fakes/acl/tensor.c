/* Descriptions of tensors, buffers and attributes. */
#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

aclTensorDesc *aclCreateTensorDesc(int dtype, int n_dims, const int64_t *dims, int format)
{
    CALL_FOR(NULL);
    aclTensorDesc *desc = calloc(1, sizeof *desc);
    if (!desc || n_dims < 0 || n_dims > MAX_DIMS) {
        free(desc);
        return NULL;
    }
    desc->dtype = dtype;
    desc->format = format;
    desc->n_dims = n_dims;
    if (n_dims)
        memcpy(desc->dims, dims, sizeof *dims * (size_t)n_dims);
    return desc;
}

void aclDestroyTensorDesc(const aclTensorDesc *desc)
{
    CALL_FOR();
    free((void *)(uintptr_t)desc);
}

int aclGetTensorDescType(const aclTensorDesc *desc)
{
    CALL_FOR(-1);
    return desc->dtype;
}

int aclGetTensorDescFormat(const aclTensorDesc *desc)
{
    CALL_FOR(-1);
    return desc->format;
}

size_t aclGetTensorDescNumDims(const aclTensorDesc *desc)
{
    CALL_FOR(0);
    return (size_t)desc->n_dims;
}

aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t index, int64_t *dim)
{
    CALL("index=%zu", index);
    if (!desc || !dim || index >= (size_t)desc->n_dims)
        return refuse(call, INVALID_PARAM, "aclGetTensorDescDimV2: there is no dimension %zu", index);
    *dim = desc->dims[index];
    return done(call);
}

/* Names, and how a chip stores a tensor, do not matter here: all are stored as described first. */

void aclSetTensorDescName(aclTensorDesc *desc, const char *name)
{
    CALL_FOR();
    (void)desc;
    (void)name;
}

aclError aclSetTensorFormat(aclTensorDesc *desc, int format)
{
    CALL("format=%d", format);
    (void)desc;
    return done(call);
}

aclError aclSetTensorShape(aclTensorDesc *desc, int n_dims, const int64_t *dims)
{
    CALL("n_dims=%d", n_dims);
    (void)desc;
    (void)dims;
    return done(call);
}

aclError aclSetTensorPlaceMent(aclTensorDesc *desc, int placement)
{
    CALL("placement=%d", placement);
    desc->placement = placement;
    return done(call);
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t nbytes)
{
    CALL_FOR(NULL);
    aclDataBuffer *buffer = calloc(1, sizeof *buffer);
    if (buffer)
        *buffer = (aclDataBuffer){data, nbytes};
    return buffer;
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer)
{
    CALL(" ");
    free((void *)(uintptr_t)buffer);
    return done(call);
}

aclopAttr *aclopCreateAttr(void)
{
    CALL_FOR(NULL);
    return calloc(1, sizeof(aclopAttr));
}

void aclopDestroyAttr(const aclopAttr *attr)
{
    CALL_FOR();
    free((void *)(uintptr_t)attr);
}

static aclError set(struct call *call, aclopAttr *attr, const char *name, int n, const int64_t *values)
{
    if (!attr || !name || n < 0 || n > MAX_VALUES || attr->n_attributes == MAX_ATTRIBUTES)
        return refuse(call, INVALID_PARAM, "%s: no name, or more than is simulated",
                      call->function->name);
    struct attribute *attribute = &attr->attributes[attr->n_attributes++];
    snprintf(attribute->name, sizeof attribute->name, "%s", name);
    attribute->n_values = n;
    if (n)
        memcpy(attribute->values, values, sizeof *values * (size_t)n);
    return done(call);
}

aclError aclopSetAttrBool(aclopAttr *attr, const char *name, uint8_t value)
{
    CALL("name=%s value=%d", name, value);
    return set(call, attr, name, 1, &(int64_t){value});
}

aclError aclopSetAttrInt(aclopAttr *attr, const char *name, int64_t value)
{
    CALL("name=%s value=%lld", name, (long long)value);
    return set(call, attr, name, 1, &value);
}

aclError aclopSetAttrDataType(aclopAttr *attr, const char *name, int value)
{
    CALL("name=%s value=%d", name, value);
    return set(call, attr, name, 1, &(int64_t){value});
}

aclError aclopSetAttrListInt(aclopAttr *attr, const char *name, int n, const int64_t *values)
{
    CALL("name=%s n=%d", name, n);
    return set(call, attr, name, n, values);
}

/* None of the simulated operators takes these. */

aclError aclopSetAttrFloat(aclopAttr *attr, const char *name, float value)
{
    CALL("name=%s", name);
    (void)value;
    return set(call, attr, name, 0, NULL);
}

aclError aclopSetAttrString(aclopAttr *attr, const char *name, const char *value)
{
    CALL("name=%s", name);
    (void)value;
    return set(call, attr, name, 0, NULL);
}

int64_t attribute_or(const aclopAttr *attr, const char *name, int64_t other)
{
    for (int i = 0; attr && i < attr->n_attributes; i++)
        if (strcmp(attr->attributes[i].name, name) == 0 && attr->attributes[i].n_values)
            return attr->attributes[i].values[0];
    return other;
}
