/* What is simulated: read from ACLSIM_* when the library is loaded. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdatomic.h>
#include <stdint.h>

enum { MAX_DEVICES = 16 };
enum { ANONYMOUS, MEMFD, SECRET };          /* what device memory is made of */
enum { UNPINNED_SYNC, UNPINNED_CORRUPT };

struct settings {
    /* Fixed at the start. */
    int devices;
    int is_rc;
    int backing;
    int pinned_secret;
    int alignment;                          /* of both ends of an asynchronous copy; 0: any */
    uint64_t memory;                        /* bytes of one device */
    uint64_t populate;                      /* bytes of each that are there from the start */
    uint64_t start_ns;                      /* what the first aclrtSetDevice of a device takes */
    char soc[64], driver[64];
    /* These may change: bytes per second (0: as fast as it goes), by physical device. */
    _Atomic uint64_t h2d[MAX_DEVICES], d2h[MAX_DEVICES];
    _Atomic uint64_t latency_ns, delay_ns, operator_ns;
    _Atomic int unpinned;
};

extern struct settings settings;

/* The version that this library was built for (version.c, compiled once for each). */
extern const char cann_version[];
extern const int64_t cann_number;
extern const int cann_strict;

#define CANN(major, minor, patch) ((major) * 10000000LL + (minor) * 100000LL + (patch) * 1000LL)
#define CANN_RC(major, minor, rc) (CANN(major, minor, 0) - 100 + (rc))

#endif
