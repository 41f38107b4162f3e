/* What the runtime says of itself and of its devices. */
#include <stdio.h>
#include <string.h>

#include "acl_sim.h"
#include "call.h"
#include "device.h"
#include "settings.h"
#include "state.h"

aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch)
{
    CALL(" ");
    if (!major || !minor || !patch)
        return refuse(call, INVALID_PARAM, "aclrtGetVersion: an argument is NULL");
    /* The version of the interface, which is not CANN's. */
    *major = 1;
    *minor = cann_number < CANN(8, 5, 0) ? 14 : 15;
    *patch = 0;
    return done(call);
}

const char *aclrtGetSocName(void)
{
    CALL_FOR(NULL);
    return settings.soc;
}

aclError aclrtGetRunMode(int *mode)
{
    CALL(" ");
    if (!mode)
        return refuse(call, INVALID_PARAM, "aclrtGetRunMode: the argument is NULL");
    *mode = settings.is_rc ? RUN_MODE_DEVICE : RUN_MODE_HOST;
    return done(call);
}

aclError aclsysGetCANNVersion(int package, struct package_version *version)
{
    CALL("package=%d", package);
    if (!version)
        return refuse(call, INVALID_PARAM, "aclsysGetCANNVersion: the version is NULL");
    memset(version, 0, sizeof *version);
    snprintf(version->version, sizeof version->version, "%s",
             package == PACKAGE_DRIVER ? settings.driver : cann_version);
    return done(call);
}

aclError aclsysGetVersionStr(char *package, char *version)
{
    CALL("package=%s", package ? package : "");
    if (!package || !version)
        return refuse(call, INVALID_PARAM, "aclsysGetVersionStr: an argument is NULL");
    snprintf(version, 128, "%s", strcmp(package, "driver") == 0 ? settings.driver : cann_version);
    return done(call);
}

aclError aclsysGetVersionNum(char *package, int32_t *number)
{
    CALL("package=%s", package ? package : "");
    if (!package || !number)
        return refuse(call, INVALID_PARAM, "aclsysGetVersionNum: an argument is NULL");
    if (strcmp(package, "driver") == 0)
        return refuse(call, RT_FEATURE_NOT_SUPPORT, "aclsysGetVersionNum: not of the driver");
    *number = (int32_t)cann_number;
    return done(call);
}

aclError aclGetDeviceCapability(uint32_t device, int what, int64_t *value)
{
    static const int64_t values[] = {20, 40, 192LL << 20}; /* AI cores, vector cores, L2 */
    CALL("device=%u what=%d", device, what);
    if (!value || what < 0 || what >= (int)(sizeof values / sizeof *values))
        return refuse(call, INVALID_PARAM, "aclGetDeviceCapability: there is no number %d", what);
    *value = values[what];
    return done(call);
}

aclError aclrtGetDeviceInfo(uint32_t device, int what, int64_t *value)
{
    CALL("device=%u what=%d", device, what);
    (void)value;
    return refuse(call, RT_FEATURE_NOT_SUPPORT, "aclrtGetDeviceInfo: not simulated");
}

aclError aclrtGetDeviceUtilizationRate(int32_t device, struct utilization *rates)
{
    CALL("device=%d", device);
    if (!rates)
        return refuse(call, INVALID_PARAM, "aclrtGetDeviceUtilizationRate: the rates are NULL");
    *rates = (struct utilization){-1, -1, -1, -1, NULL};
    return done(call);
}

aclError aclrtQueryDeviceStatus(int32_t device, int *status)
{
    CALL("device=%d", device);
    if (!status || device < 0 || device >= device_count())
        return refuse(call, RT_INVALID_DEVICEID, "aclrtQueryDeviceStatus: there is no device %d",
                      device);
    *status = 0;
    return done(call);
}

aclError aclGetCannAttribute(int attribute, int32_t *value)
{
    CALL("attribute=%d", attribute);
    if (!value)
        return refuse(call, INVALID_PARAM, "aclGetCannAttribute: the value is NULL");
    *value = 1;
    return done(call);
}
