/* Functions that torch_npu links against or looks up and that tests do not need: they are there.
 *
 * Those that must not fail say 0; the others 200001 or 207000, "not supported", with their name
 * as the message. */
#include <string.h>

#include "acl_sim.h"
#include "call.h"

/* Callers pass arguments, which are not looked at and so not declared: the ABI allows that. */
#define NOTHING_TO_DO(name)                                            \
    API int name(void);                                                \
    int name(void)                                                     \
    {                                                                  \
        LISTED();                                                      \
        atomic_fetch_add(&call->function->calls, 1);                   \
        return 0;                                                      \
    }
#define REFUSED(name, code)                                            \
    API aclError name(void);                                           \
    aclError name(void)                                                \
    {                                                                  \
        CALL(" ");                                                     \
        return refuse(call, code, #name ": not simulated");            \
    }
#define NOT_SUPPORTED(name) REFUSED(name, API_NOT_SUPPORT)
/* Features that a program may ask for to see whether they are there. */
#define NO_SUCH_FEATURE(name) REFUSED(name, RT_FEATURE_NOT_SUPPORT)

NOTHING_TO_DO(aclAppLog)
NOTHING_TO_DO(aclmdlInitDump)
NOTHING_TO_DO(aclmdlSetDump)
NOTHING_TO_DO(aclmdlFinalizeDump)
NOTHING_TO_DO(aclSetCompileopt)
NOTHING_TO_DO(aclrtSetDeviceSatMode)
NOTHING_TO_DO(aclrtSetOpExecuteTimeOut)
NOTHING_TO_DO(aclrtSetOpWaitTimeout)
NOTHING_TO_DO(aclrtSetSysParamOpt)
NOTHING_TO_DO(aclrtCtxSetSysParamOpt)
NOTHING_TO_DO(HcclSetConfig)
NOTHING_TO_DO(MsprofRegisterCallback)
NOTHING_TO_DO(MsprofReportAdditionalInfo)
NOTHING_TO_DO(MsprofReportApi)
NOTHING_TO_DO(MsprofReportCompactInfo)

NOT_SUPPORTED(aclopSetAttrListBool)
NOT_SUPPORTED(aclopSetAttrListFloat)
NOT_SUPPORTED(aclopSetAttrListListInt)
NOT_SUPPORTED(aclrtBinaryLoadFromData)
NOT_SUPPORTED(aclrtBinaryGetFunction)
NOT_SUPPORTED(aclrtGetFunctionAddr)
NO_SUCH_FEATURE(aclrtMemExportToShareableHandle)
NO_SUCH_FEATURE(aclrtMemImportFromShareableHandle)
NO_SUCH_FEATURE(aclrtMemSetPidToShareableHandle)
NO_SUCH_FEATURE(aclrtIpcMemGetExportKey)
NO_SUCH_FEATURE(aclrtIpcMemImportByKey)
NO_SUCH_FEATURE(aclrtIpcMemSetImportPid)
NO_SUCH_FEATURE(aclrtIpcMemClose)
NOT_SUPPORTED(rtDevBinaryRegister)
NOT_SUPPORTED(rtFunctionRegister)
NOT_SUPPORTED(rtKernelLaunch)
NOT_SUPPORTED(rtGetC2cCtrlAddr)

API uint64_t MsprofGetHashId(void);
uint64_t MsprofGetHashId(void)
{
    return 0;
}

API uint64_t MsprofSysCycleTime(void);
uint64_t MsprofSysCycleTime(void)
{
    return 0;
}

API aclError aclrtGetSysParamOpt(int option, int64_t *value);
aclError aclrtGetSysParamOpt(int option, int64_t *value)
{
    CALL("option=%d", option);
    *value = 0;
    return done(call);
}

API size_t aclGetCompileoptSize(int option);
size_t aclGetCompileoptSize(int option)
{
    (void)option;
    return 8;
}

API aclError aclGetCompileopt(int option, char *value, size_t nbytes);
aclError aclGetCompileopt(int option, char *value, size_t nbytes)
{
    CALL("option=%d", option);
    if (!value || nbytes < 2)
        return refuse(call, INVALID_PARAM, "aclGetCompileopt: no room");
    memcpy(value, "1", 2);
    return done(call);
}

/* Nothing is being captured. */
API aclError aclmdlRICaptureGetInfo(aclrtStream stream, int *status, void **model);
aclError aclmdlRICaptureGetInfo(aclrtStream stream, int *status, void **model)
{
    CALL("stream=%p", stream);
    if (status)
        *status = 0;
    if (model)
        *model = NULL;
    return done(call);
}

API aclError aclmdlRICaptureThreadExchangeMode(int *mode);
aclError aclmdlRICaptureThreadExchangeMode(int *mode)
{
    CALL(" ");
    (void)mode;
    return done(call);
}
