/* Descriptions of tensors and attributes of operators, as callers build them up. */
#ifndef TENSOR_H
#define TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "acl_sim.h"

enum {
    FLOAT = 0, FLOAT16 = 1, INT8 = 2, INT32 = 3, UINT8 = 4, INT16 = 6, UINT16 = 7, UINT32 = 8,
    INT64 = 9, UINT64 = 10, DOUBLE = 11, BOOL = 12, COMPLEX64 = 16, COMPLEX128 = 17, BF16 = 27,
    FLOAT8_E5M2 = 35, FLOAT8_E4M3FN = 36,
};
enum { PLACED_ON_DEVICE, PLACED_ON_HOST };
enum { MAX_DIMS = 8, MAX_ATTRIBUTES = 8, MAX_VALUES = 16 };

typedef struct aclTensorDesc {
    int dtype, format, placement;
    int n_dims;
    int64_t dims[MAX_DIMS];
} aclTensorDesc;

typedef struct aclDataBuffer {
    void *data;
    size_t nbytes;
} aclDataBuffer;

struct attribute {
    char name[32];
    int n_values;
    int64_t values[MAX_VALUES];
};

typedef struct aclopAttr {
    int n_attributes;
    struct attribute attributes[MAX_ATTRIBUTES];
} aclopAttr;

/* An attribute's first value, or another if it was not given. */
int64_t attribute_or(const aclopAttr *attr, const char *name, int64_t other);

API aclTensorDesc *aclCreateTensorDesc(int dtype, int n_dims, const int64_t *dims, int format);
API void aclDestroyTensorDesc(const aclTensorDesc *desc);
API int aclGetTensorDescType(const aclTensorDesc *desc);
API int aclGetTensorDescFormat(const aclTensorDesc *desc);
API size_t aclGetTensorDescNumDims(const aclTensorDesc *desc);
API aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t index, int64_t *dim);
API void aclSetTensorDescName(aclTensorDesc *desc, const char *name);
API aclError aclSetTensorFormat(aclTensorDesc *desc, int format);
API aclError aclSetTensorShape(aclTensorDesc *desc, int n_dims, const int64_t *dims);
API aclError aclSetTensorPlaceMent(aclTensorDesc *desc, int placement);
API aclDataBuffer *aclCreateDataBuffer(void *data, size_t nbytes);
API aclError aclDestroyDataBuffer(const aclDataBuffer *buffer);
API aclopAttr *aclopCreateAttr(void);
API void aclopDestroyAttr(const aclopAttr *attr);
API aclError aclopSetAttrBool(aclopAttr *attr, const char *name, uint8_t value);
API aclError aclopSetAttrInt(aclopAttr *attr, const char *name, int64_t value);
API aclError aclopSetAttrDataType(aclopAttr *attr, const char *name, int value);
API aclError aclopSetAttrFloat(aclopAttr *attr, const char *name, float value);
API aclError aclopSetAttrString(aclopAttr *attr, const char *name, const char *value);
API aclError aclopSetAttrListInt(aclopAttr *attr, const char *name, int n, const int64_t *values);
API aclError aclopCompileAndExecute(const char *name, int n_inputs, const aclTensorDesc *const *input_descs,
                                    const aclDataBuffer *const *inputs, int n_outputs,
                                    const aclTensorDesc *const *output_descs, aclDataBuffer *const *outputs,
                                    const aclopAttr *attr, int engine, int flag, const char *path,
                                    aclrtStream stream);

#endif
