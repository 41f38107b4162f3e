/* The version of CANN that is simulated: compiled once for each, see build.py. */
#include "settings.h"

const char cann_version[] = ACLSIM_CANN_VERSION;
const int64_t cann_number = ACLSIM_CANN_NUMBER;
const int cann_strict = ACLSIM_CANN_STRICT;
