/* One engine for each device and direction: streams of one device share it, devices do not.
 *
 * Times are those of the link, not of the threads: a piece begins when the one before it was due, even
 * if the thread has come late. So the rate is met exactly as long as there is work. */
#include "link.h"

#include "settings.h"
#include "state.h"

uint64_t link_rate(const struct device *device, enum direction direction)
{
    if (settings.is_rc || direction > D2H)
        return 0;
    return atomic_load(direction == H2D ? &settings.h2d[device->physical] : &settings.d2h[device->physical]);
}

size_t link_piece(uint64_t rate)
{
    size_t half_a_ms = (size_t)(rate / 2000);
    size_t piece = (half_a_ms + (1 << 20) - 1) & ~(size_t)((1 << 20) - 1);
    return piece < 1 << 20 ? 1 << 20 : piece > 8 << 20 ? 8 << 20 : piece;
}

uint64_t link_take(struct device *device, enum direction direction, size_t nbytes, uint64_t rate,
                   uint64_t ready)
{
    GUARD();
    uint64_t start = device->link_free[direction];
    if (start < ready)
        start = ready;
    return device->link_free[direction] = start + (uint64_t)((double)nbytes * 1e9 / (double)rate);
}
