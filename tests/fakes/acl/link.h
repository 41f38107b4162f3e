/* The links between host and devices, as fast as ACLSIM_H2D and ACLSIM_D2H say. */
#ifndef LINK_H
#define LINK_H

#include <stddef.h>
#include <stdint.h>

#include "device.h"

enum direction { H2D, D2H, D2D, H2H };

/* Bytes per second, 0 for as fast as it goes. */
uint64_t link_rate(const struct device *device, enum direction direction);
/* The bytes that go over in one piece: a MiB, more where pieces would come too fast to be slept for. */
size_t link_piece(uint64_t rate);
/* Take the link for some bytes from `ready` on: the moment they are over. Takes the lock. */
uint64_t link_take(struct device *device, enum direction direction, size_t nbytes, uint64_t rate,
                   uint64_t ready);

#endif
