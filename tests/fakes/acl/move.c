/* Bytes move piece by piece, each as late as its link allows, and only while both ends are there. */
#define _GNU_SOURCE
#include "move.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "account.h"
#include "settings.h"
#include "state.h"
#include "trace.h"

static const char *const names[] = {"h2d", "d2h", "d2d", "h2h"};

/* Registered memory that its owner has unmapped: found out, because touching it would end the process. */
static int is_unmapped(const struct side *side, size_t offset, size_t nbytes)
{
    unsigned char resident[4096];
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t at = ((uintptr_t)side->bytes + offset) & ~(page - 1);
    uintptr_t last = (uintptr_t)side->bytes + offset + nbytes;
    if (!side->range || side->range->kind != REGISTERED_MEMORY)
        return 0;
    for (size_t step = sizeof resident * page; at < last; at += step) {
        size_t length = last - at < step ? last - at : step;
        if (mincore((void *)at, length, resident) != 0)
            return 1;
    }
    return 0;
}

static void leave(struct side *side)
{
    if (side->range && --side->range->users == 0 && side->range->is_gone)
        tell_progress();
}

/* Nonzero: one end is gone. It cannot go while its bytes are moved. */
static int move_piece(struct move *move, size_t offset, size_t nbytes)
{
    {
        GUARD();
        if (side_is_gone(&move->dst, move->nbytes) || side_is_gone(&move->src, move->nbytes))
            return -1;
        if (move->dst.range)
            move->dst.range->users++;
        if (move->src.range)
            move->src.range->users++;
    }
    int is_lost = is_unmapped(&move->dst, offset, nbytes) || is_unmapped(&move->src, offset, nbytes);
    if (!is_lost)
        memmove(move->dst.bytes + offset, move->src.bytes + offset, nbytes);
    GUARD();
    leave(&move->dst);
    leave(&move->src);
    return is_lost ? -1 : 0;
}

void poison(const struct side *side, size_t offset, size_t nbytes)
{
    static const char garbage[4096] = {[0 ... 4095] = (char)POISON};
    if (side->device) {
        /* Whoever has these addresses now. */
        memset(side->bytes + offset, POISON, nbytes);
        return;
    }
    if (side->range && side->range->kind == PINNED_MEMORY) {
        GUARD();
        if (!side->range->is_gone)
            memset(side->bytes + offset, POISON, nbytes);
        return;
    }
    while (nbytes > 0) {
        /* By the kernel, for the memory may be gone. */
        size_t n = nbytes < sizeof garbage ? nbytes : sizeof garbage;
        struct iovec from = {(void *)(uintptr_t)garbage, n}, to = {side->bytes + offset, n};
        if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)n)
            return;
        offset += n;
        nbytes -= n;
    }
}

/* Tell of it. Is there a destination still, for garbage? */
static int report_gone(struct move *move, size_t offset)
{
    GUARD();
    int has_dst = !side_is_gone(&move->dst, move->nbytes);
    const char *which = !has_dst ? "destination was freed or unregistered"
                        : side_is_gone(&move->src, move->nbytes) ? "source was freed or unregistered"
                                                                 : "registered memory was unmapped";
    violation("%s: the %s before the copy had run, %zu of %zu bytes", move->call, which, offset,
              move->nbytes);
    return has_dst || move->dst.device;
}

uint64_t move_bytes(struct move *move, int stream, uint64_t ready)
{
    uint64_t start = now_ns(), due = ready, rate = 0;
    size_t offset = 0;
    int is_lost = 0;
    if (move->direction <= D2H)
        due += atomic_load(&settings.latency_ns);
    while (offset < move->nbytes && !is_lost) {
        rate = move->link ? link_rate(move->link, move->direction) : 0;
        size_t piece = link_piece(rate), left = move->nbytes - offset;
        size_t nbytes = left < piece ? left : piece;
        if (rate)
            due = link_take(move->link, move->direction, nbytes, rate, due);
        if (due > now_ns())
            sleep_until(due);
        if (move->is_corrupt)
            poison(&move->dst, offset, nbytes);
        else
            is_lost = move_piece(move, offset, nbytes);
        if (!is_lost)
            offset += nbytes;
    }
    if (is_lost && report_gone(move, offset))
        poison(&move->dst, offset, move->nbytes - offset);
    count_moved(move, offset);
    trace_copy(names[move->direction], move->link ? move->link->id : -1, stream, move->nbytes, start,
               now_ns(), is_lost);
    return rate ? due : 0;
}
