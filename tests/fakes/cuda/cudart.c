/* A CUDA runtime without a GPU: the simulated ACL runtime behind CUDA's names, numbers and manners.
 *
 * What is refused, counted and traced by name are the functions below; what they do is done by the
 * simulator, whose settings (ACLSIM_*) hold here too. CUDA's own manners are here: a thread is on
 * device 0 until it says otherwise, a device is woken by the first call that needs it, the last error
 * stays with its thread until somebody takes it, and copies may start anywhere. */
#include <pthread.h>
#include <stdio.h>

#include "acl_sim.h"
#include "call.h"

enum {
    INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INITIALIZATION_ERROR = 3, INVALID_DEVICE = 101,
    INVALID_RESOURCE_HANDLE = 400, NOT_READY = 600, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713,
    LAUNCH_FAILURE = 719, UNKNOWN = 999,
};

static const struct { int acl, cuda; } codes[] = {
    {RT_INVALID_DEVICEID, INVALID_DEVICE}, {RT_MEMORY_ALLOCATION, OUT_OF_MEMORY},
    {HOST_MEMORY_ALREADY_REGISTERED, ALREADY_REGISTERED},
    {HOST_MEMORY_NOT_REGISTERED, NOT_REGISTERED}, {RT_INVALID_HANDLE, INVALID_RESOURCE_HANDLE},
    {RT_STREAM_CONTEXT, INVALID_RESOURCE_HANDLE}, {RT_PARAM_INVALID, INVALID_VALUE},
    {INVALID_PARAM, INVALID_VALUE}, {RT_INVALID_MEMORY_TYPE, INVALID_VALUE},
    {RT_DRV_INTERNAL_ERROR, LAUNCH_FAILURE},
};
static const struct { int code; const char *name, *text; } texts[] = {
    {0, "cudaSuccess", "no error"},
    {INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {OUT_OF_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {INITIALIZATION_ERROR, "cudaErrorInitializationError", "initialization error"},
    {INVALID_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {INVALID_RESOURCE_HANDLE, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {NOT_READY, "cudaErrorNotReady", "device not ready"},
    {ALREADY_REGISTERED, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {NOT_REGISTERED, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {LAUNCH_FAILURE, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {UNKNOWN, "cudaErrorUnknown", "unknown error"},
};

static _Thread_local int current, entered = -1, last;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    aclInit(NULL);
}

/* The code of CUDA's for one of ACL's, kept for the thread. */
static int told(int code)
{
    int found = code ? UNKNOWN : 0;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].acl == code)
            found = codes[i].cuda;
    if (found)
        last = found;
    return found;
}

/* Have the thread's device awake and current below. */
static int enter(void)
{
    pthread_once(&once, start);
    if (entered == current)
        return 0;
    int code = aclrtSetDevice(current);
    if (code == 0)
        entered = current;
    return code;
}

/* First lines of a function that is listed; an injected failure ends it, and is remembered. */
#define CUDA(...)                                                                                    \
    LISTED();                                                                                        \
    do {                                                                                             \
        int fault_ = begin(call, __VA_ARGS__);                                                       \
        if (fault_)                                                                                  \
            return last = fault_;                                                                    \
        done(call);                                                                                  \
    } while (0)
#define ENTER()                                                                                      \
    do {                                                                                             \
        int code_ = enter();                                                                         \
        if (code_)                                                                                   \
            return told(code_);                                                                      \
    } while (0)

API const char *cudaGetErrorName(int code);
API const char *cudaGetErrorString(int code);
API int cudaGetLastError(void);
API int cudaPeekAtLastError(void);
API int cudaRuntimeGetVersion(int *version);
API int cudaDriverGetVersion(int *version);
API int cudaGetDeviceCount(int *count);
API int cudaSetDevice(int device);
API int cudaGetDevice(int *device);
API int cudaMemGetInfo(size_t *free_nbytes, size_t *total_nbytes);
API int cudaMalloc(void **address, size_t nbytes);
API int cudaFree(void *address);
API int cudaHostAlloc(void **address, size_t nbytes, unsigned flags);
API int cudaFreeHost(void *address);
API int cudaHostRegister(void *address, size_t nbytes, unsigned flags);
API int cudaHostUnregister(void *address);
API int cudaMemcpy(void *to, const void *source, size_t nbytes, int kind);
API int cudaMemcpyAsync(void *to, const void *source, size_t nbytes, int kind, void *stream);
API int cudaMemsetAsync(void *to, int value, size_t nbytes, void *stream);
API int cudaStreamCreateWithFlags(void **stream, unsigned flags);
API int cudaStreamDestroy(void *stream);
API int cudaStreamSynchronize(void *stream);
API int cudaDeviceSynchronize(void);
API int cudaStreamWaitEvent(void *stream, void *event, unsigned flags);
API int cudaEventCreateWithFlags(void **event, unsigned flags);
API int cudaEventDestroy(void *event);
API int cudaEventRecord(void *event, void *stream);
API int cudaEventQuery(void *event);
API int cudaEventSynchronize(void *event);

const char *cudaGetErrorName(int code)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == code)
            return texts[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(int code)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == code)
            return texts[i].text;
    return "unrecognized error code";
}

int cudaGetLastError(void)
{
    int code = last;
    last = 0;
    return code;
}

int cudaPeekAtLastError(void)
{
    return last;
}

int cudaRuntimeGetVersion(int *version)
{
    CUDA(" ");
    *version = 13000;
    return 0;
}

int cudaDriverGetVersion(int *version)
{
    CUDA(" ");
    *version = 13010;
    return 0;
}

int cudaGetDeviceCount(int *count)
{
    CUDA(" ");
    uint32_t found = 0;
    pthread_once(&once, start);
    int code = aclrtGetDeviceCount(&found);
    *count = (int)found;
    return told(code);
}

int cudaSetDevice(int device)
{
    CUDA("device=%d", device);
    int before = current;
    current = device;
    int code = enter();
    if (code)
        current = before;
    return told(code);
}

int cudaGetDevice(int *device)
{
    CUDA(" ");
    *device = current;
    return 0;
}

int cudaMemGetInfo(size_t *free_nbytes, size_t *total_nbytes)
{
    CUDA(" ");
    ENTER();
    return told(aclrtGetMemInfo(1, free_nbytes, total_nbytes));
}

int cudaMalloc(void **address, size_t nbytes)
{
    CUDA("nbytes=%zu", nbytes);
    ENTER();
    return told(aclrtMalloc(address, nbytes, 0));
}

int cudaFree(void *address)
{
    CUDA("address=%p", address);
    ENTER();
    return told(address ? aclrtFree(address) : 0);
}

int cudaHostAlloc(void **address, size_t nbytes, unsigned flags)
{
    CUDA("nbytes=%zu flags=%u", nbytes, flags);
    ENTER();
    return told(aclrtMallocHost(address, nbytes));
}

int cudaFreeHost(void *address)
{
    CUDA("address=%p", address);
    ENTER();
    return told(aclrtFreeHost(address));
}

int cudaHostRegister(void *address, size_t nbytes, unsigned flags)
{
    void *mapped;
    CUDA("address=%p nbytes=%zu flags=%u", address, nbytes, flags);
    ENTER();
    return told(aclrtHostRegister(address, nbytes, 0, &mapped));
}

int cudaHostUnregister(void *address)
{
    CUDA("address=%p", address);
    ENTER();
    return told(aclrtHostUnregister(address));
}

int cudaMemcpy(void *to, const void *source, size_t nbytes, int kind)
{
    CUDA("to=%p source=%p nbytes=%zu kind=%d", to, source, nbytes, kind);
    ENTER();
    return told(aclrtMemcpy(to, nbytes, source, nbytes, kind));
}

int cudaMemcpyAsync(void *to, const void *source, size_t nbytes, int kind, void *stream)
{
    CUDA("to=%p source=%p nbytes=%zu kind=%d stream=%p", to, source, nbytes, kind, stream);
    ENTER();
    return told(aclrtMemcpyAsync(to, nbytes, source, nbytes, kind, stream));
}

int cudaMemsetAsync(void *to, int value, size_t nbytes, void *stream)
{
    CUDA("to=%p value=%d nbytes=%zu stream=%p", to, value, nbytes, stream);
    ENTER();
    return told(aclrtMemsetAsync(to, nbytes, value, nbytes, stream));
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags)
{
    CUDA("flags=%u", flags);
    ENTER();
    return told(aclrtCreateStream(stream));
}

int cudaStreamDestroy(void *stream)
{
    CUDA("stream=%p", stream);
    ENTER();
    return told(aclrtDestroyStream(stream));
}

int cudaStreamSynchronize(void *stream)
{
    CUDA("stream=%p", stream);
    ENTER();
    return told(aclrtSynchronizeStream(stream));
}

int cudaDeviceSynchronize(void)
{
    CUDA(" ");
    ENTER();
    return told(aclrtSynchronizeDevice());
}

int cudaStreamWaitEvent(void *stream, void *event, unsigned flags)
{
    CUDA("stream=%p event=%p flags=%u", stream, event, flags);
    ENTER();
    return told(aclrtStreamWaitEvent(stream, event));
}

int cudaEventCreateWithFlags(void **event, unsigned flags)
{
    CUDA("flags=%u", flags);
    ENTER();
    return told(aclrtCreateEventExWithFlag(event, EVENT_SYNC | 2));
}

int cudaEventDestroy(void *event)
{
    CUDA("event=%p", event);
    ENTER();
    return told(aclrtDestroyEvent(event));
}

int cudaEventRecord(void *event, void *stream)
{
    CUDA("event=%p stream=%p", event, stream);
    ENTER();
    return told(aclrtRecordEvent(event, stream));
}

int cudaEventQuery(void *event)
{
    int status = 0;
    CUDA("event=%p", event);
    ENTER();
    int code = aclrtQueryEventStatus(event, &status);
    return code ? told(code) : status == 1 ? 0 : NOT_READY;
}

int cudaEventSynchronize(void *event)
{
    CUDA("event=%p", event);
    ENTER();
    return told(aclrtSynchronizeEvent(event));
}
