/* The part of ACL that the simulator offers, declared anew: types, numbers, functions.
 *
 * Enumerations of ACL are plain ints here; sizes and layouts are those of its 64-bit ABI. The
 * functions that ACL does not have, aclsim_*, are for tests. */
#ifndef ACL_SIM_H
#define ACL_SIM_H

#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

typedef int aclError;
typedef void *aclrtStream, *aclrtEvent, *aclrtContext, *aclrtDrvMemHandle;
typedef void (*aclrtCallback)(void *data);

enum {
    INVALID_PARAM = 100000,
    UNINITIALIZE = 100001,
    REPEAT_INITIALIZE = 100002,
    REPEAT_FINALIZE = 100037,
    RT_PARAM_INVALID = 107000,
    RT_INVALID_DEVICEID = 107001,
    RT_CONTEXT_NULL = 107002,
    RT_STREAM_CONTEXT = 107003,
    RT_EVENT_TIMESTAMP_INVALID = 107006,
    RT_ADDR_UNALIGNED = 107008,
    RT_INVALID_MEMORY_TYPE = 107016,
    RT_INVALID_HANDLE = 107017,
    API_NOT_SUPPORT = 200001,
    RT_FEATURE_NOT_SUPPORT = 207000,
    RT_MEMORY_ALLOCATION = 207001,
    RT_NO_EVENT_RESOURCE = 207007,
    RT_NO_STREAM_RESOURCE = 207008,
    INTERNAL_ERROR = 500000,
    RT_REPORT_TIMEOUT = 507012,
    RT_STREAM_SYNC_TIMEOUT = 507046,
    RT_EVENT_SYNC_TIMEOUT = 507047,
    RT_DRV_INTERNAL_ERROR = 507899,
    HOST_MEMORY_ALREADY_REGISTERED = 507910,
    HOST_MEMORY_NOT_REGISTERED = 507911,
};

enum { RUN_MODE_DEVICE, RUN_MODE_HOST };
enum {
    KIND_H2H, KIND_H2D, KIND_D2H, KIND_D2D,
    KIND_DEFAULT, KIND_BUFFERED, KIND_INNER_D2D, KIND_INTER_D2D,
};
enum { LOCATION_HOST, LOCATION_DEVICE, LOCATION_UNREGISTERED };
enum { EVENT_SYNC = 0x1, EVENT_TIME_LINE = 0x8 };
enum { REGISTER_MAPPED = 0x2, REGISTER_PINNED = 0x10000000 };
enum { PACKAGE_DRIVER = 7 };

struct location { uint32_t id; int type; };
struct pointer_attributes { struct location location; uint32_t page_nbytes, reserved[4]; };
struct batch_attributes { struct location dst, src; uint8_t reserved[16]; };
struct utilization { int32_t cube, vector, aicpu, memory; void *extend; };
struct package_version { char version[128], parts[4][64], reserved[128]; };

_Static_assert(sizeof(struct pointer_attributes) == 28, "aclrtPtrAttributes");
_Static_assert(sizeof(struct batch_attributes) == 32, "aclrtMemcpyBatchAttr");
_Static_assert(sizeof(struct utilization) == 24, "aclrtUtilizationInfo");
_Static_assert(sizeof(struct package_version) == 512, "aclCANNPackageVersion");

/* start.c */
API aclError aclInit(const char *config);
API aclError aclFinalize(void);
API aclError aclFinalizeReference(uint64_t *references);
API const char *aclGetRecentErrMsg(void);
API aclError aclrtPeekAtLastError(int level);
API aclError aclrtGetLastError(int level);

/* identity.c */
API aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch);
API const char *aclrtGetSocName(void);
API aclError aclrtGetRunMode(int *mode);
API aclError aclsysGetCANNVersion(int package, struct package_version *version);
API aclError aclsysGetVersionStr(char *package, char *version);
API aclError aclsysGetVersionNum(char *package, int32_t *number);
API aclError aclGetDeviceCapability(uint32_t device, int what, int64_t *value);
API aclError aclrtGetDeviceInfo(uint32_t device, int what, int64_t *value);
API aclError aclrtGetDeviceUtilizationRate(int32_t device, struct utilization *rates);
API aclError aclrtQueryDeviceStatus(int32_t device, int *status);
API aclError aclGetCannAttribute(int attribute, int32_t *value);

/* context.c */
API aclError aclrtGetDeviceCount(uint32_t *count);
API aclError aclrtSetDevice(int32_t device);
API aclError aclrtResetDevice(int32_t device);
API aclError aclrtGetDevice(int32_t *device);
API aclError aclrtCreateContext(aclrtContext *context, int32_t device);
API aclError aclrtDestroyContext(aclrtContext context);
API aclError aclrtSetCurrentContext(aclrtContext context);
API aclError aclrtGetCurrentContext(aclrtContext *context);
API aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active);
API aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer);
API aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags);
API aclError aclrtDeviceGetBareTgid(int32_t *pid);

/* memory.c */
API aclError aclrtMalloc(void **address, size_t nbytes, int policy);
API aclError aclrtMallocAlign32(void **address, size_t nbytes, int policy);
API aclError aclrtFree(void *address);
API aclError aclrtGetMemInfo(int attribute, size_t *free_nbytes, size_t *total_nbytes);
API aclError aclrtPointerGetAttributes(const void *address, struct pointer_attributes *attributes);

/* host.c */
API aclError aclrtMallocHost(void **address, size_t nbytes);
API aclError aclrtMallocHostWithCfg(void **address, uint64_t nbytes, void *config);
API aclError aclrtFreeHost(void *address);

/* register.c */
API aclError aclrtHostRegister(void *address, uint64_t nbytes, int type, void **device_address);
API aclError aclrtHostRegisterV2(void *address, uint64_t nbytes, uint32_t flags);
API aclError aclrtHostUnregister(void *address);
API aclError aclrtHostGetDevicePointer(void *address, void **device_address, uint32_t flag);

/* virtual.c */
API aclError aclrtReserveMemAddress(void **address, size_t nbytes, size_t alignment, void *expected,
                                    uint64_t flags);
API aclError aclrtReleaseMemAddress(void *address);
API aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t nbytes, const void *properties,
                                 uint64_t flags);
API aclError aclrtFreePhysical(aclrtDrvMemHandle handle);
API aclError aclrtMapMem(void *address, size_t nbytes, size_t offset, aclrtDrvMemHandle handle,
                         uint64_t flags);
API aclError aclrtUnmapMem(void *address);
API aclError aclrtMemGetAllocationGranularity(void *properties, int option, size_t *nbytes);

/* copy.c */
API aclError aclrtMemcpy(void *dst, size_t room, const void *src, size_t nbytes, int kind);
API aclError aclrtMemcpyAsync(void *dst, size_t room, const void *src, size_t nbytes, int kind,
                              aclrtStream stream);
API aclError aclrtMemcpyAsyncWithCondition(void *dst, size_t room, const void *src, size_t nbytes,
                                           int kind, aclrtStream stream);

/* fill.c */
API aclError aclrtMemset(void *address, size_t room, int32_t value, size_t nbytes);
API aclError aclrtMemsetAsync(void *address, size_t room, int32_t value, size_t nbytes,
                              aclrtStream stream);

/* batch.c */
API aclError aclrtMemcpyBatch(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                              struct batch_attributes *attributes, size_t *indexes, size_t n_attributes,
                              size_t *failed);
API aclError aclrtMemcpyBatchAsync(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                                   struct batch_attributes *attributes, size_t *indexes,
                                   size_t n_attributes, size_t *failed, aclrtStream stream);
API aclError aclrtMemcpyBatchV2(void **dsts, size_t *rooms, void **srcs, size_t *nbytes, size_t count,
                                struct batch_attributes *attributes, size_t *indexes,
                                size_t n_attributes);
API aclError aclrtMemcpyBatchAsyncV2(void **dsts, size_t *rooms, void **srcs, size_t *nbytes,
                                     size_t count, struct batch_attributes *attributes, size_t *indexes,
                                     size_t n_attributes, aclrtStream stream);

/* stream.c */
API aclError aclrtCreateStream(aclrtStream *stream);
API aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flags);
API aclError aclrtDestroyStream(aclrtStream stream);
API aclError aclrtDestroyStreamForce(aclrtStream stream);
API aclError aclrtSynchronizeStream(aclrtStream stream);
API aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout_ms);
API aclError aclrtSynchronizeDevice(void);
API aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout_ms);
API aclError aclrtStreamQuery(aclrtStream stream, int *status);
API aclError aclrtStreamGetId(aclrtStream stream, int32_t *id);
API aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode);
API aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag);

/* event.c */
API aclError aclrtCreateEvent(aclrtEvent *event);
API aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags);
API aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags);
API aclError aclrtDestroyEvent(aclrtEvent event);
API aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream);
API aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream);
API aclError aclrtQueryEvent(aclrtEvent event, int *status);
API aclError aclrtQueryEventStatus(aclrtEvent event, int *status);
API aclError aclrtQueryEventWaitStatus(aclrtEvent event, int *status);
API aclError aclrtSynchronizeEvent(aclrtEvent event);
API aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout_ms);
API aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event);
API aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end);
API aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t *us);

/* callback.c */
API aclError aclrtLaunchCallback(aclrtCallback function, void *data, int block, aclrtStream stream);
API aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtCallback function, void *data);
API aclError aclrtSubscribeReport(uint64_t thread, aclrtStream stream);
API aclError aclrtUnSubscribeReport(uint64_t thread, aclrtStream stream);
API aclError aclrtProcessReport(int32_t timeout_ms);

/* settings.c, faults.c, account.c */

/* Change a setting that may change while running, under the name it has in the environment without
 * the prefix ("H2D", "DELAY_US" …). 0, or -1 for an unknown name or a bad value. */
API int aclsim_set(const char *name, const char *value);
/* Replace the rules of ACLSIM_FAIL, which count from here on. 0, or -1: nothing has changed. */
API int aclsim_fail(const char *rules);
/* The account as JSON. Writes at most `nbytes` with the final zero; returns how many all of it needs. */
API size_t aclsim_account(char *json, size_t nbytes);
/* Set the counters of the account to zero; what lives stays listed. */
API void aclsim_reset_counters(void);

#endif
