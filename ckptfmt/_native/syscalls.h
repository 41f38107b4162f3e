/* System calls and structures that the C library of the build machine may not know yet.
 * Numbers and layouts are those of the Linux user-space headers; calls from 424 on have one number on
 * every architecture. */
#ifndef CKPTFMT_SYSCALLS_H
#define CKPTFMT_SYSCALLS_H

#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CKPTFMT_NR_IO_URING_SETUP 425
#define CKPTFMT_NR_IO_URING_ENTER 426
#define CKPTFMT_NR_IO_URING_REGISTER 427
#define CKPTFMT_NR_CACHESTAT 451
#if defined(__x86_64__)
#define CKPTFMT_NR_STATX 332
#define CKPTFMT_NR_RENAMEAT2 316
#elif defined(__aarch64__)
#define CKPTFMT_NR_STATX 291
#define CKPTFMT_NR_RENAMEAT2 276
#else
#error "ckptfmt runs on Linux x86-64 and aarch64"
#endif

/* ---- io_uring (linux/io_uring.h, Linux 5.6) ---- */

struct ckptfmt_sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off, addr;
    uint32_t len, rw_flags;
    uint64_t user_data;
    uint64_t pad[3];
};

struct ckptfmt_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct ckptfmt_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct { uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1; uint64_t user_addr; } sq_off;
    struct { uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1; uint64_t user_addr; } cq_off;
};

struct ckptfmt_uring_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct { uint8_t op, resv; uint16_t flags; uint32_t resv2; } ops[64];
};

_Static_assert(sizeof(struct ckptfmt_sqe) == 64, "sqe");
_Static_assert(sizeof(struct ckptfmt_uring_params) == 120, "params");

#define CKPTFMT_OP_READ 22
#define CKPTFMT_REGISTER_PROBE 8
#define CKPTFMT_OP_SUPPORTED 1
#define CKPTFMT_ENTER_GETEVENTS 1
#define CKPTFMT_FEAT_SINGLE_MMAP 1
#define CKPTFMT_OFF_SQ_RING 0ull
#define CKPTFMT_OFF_SQES 0x10000000ull

static inline int ckptfmt_uring_setup(unsigned entries, struct ckptfmt_uring_params *params)
{
    return (int)syscall(CKPTFMT_NR_IO_URING_SETUP, entries, params);
}

static inline int ckptfmt_uring_enter(int ring, unsigned submit, unsigned wait, unsigned flags)
{
    return (int)syscall(CKPTFMT_NR_IO_URING_ENTER, ring, submit, wait, flags, NULL, 0);
}

static inline int ckptfmt_uring_probe_ops(int ring, struct ckptfmt_uring_probe *probe)
{
    memset(probe, 0, sizeof *probe);
    return (int)syscall(CKPTFMT_NR_IO_URING_REGISTER, ring, CKPTFMT_REGISTER_PROBE, probe, 64);
}

/* ---- cachestat (Linux 6.5) ---- */

struct ckptfmt_cachestat {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static inline int ckptfmt_cachestat(int fd, uint64_t offset, uint64_t nbytes, struct ckptfmt_cachestat *out)
{
    uint64_t range[2] = {offset, nbytes};
    return (int)syscall(CKPTFMT_NR_CACHESTAT, fd, range, out, 0u);
}

/* ---- statx with STATX_DIOALIGN (Linux 6.1) ---- */

#define CKPTFMT_STATX_DIOALIGN 0x2000u

/* 0 and both alignments (0: no direct reads here); -1 and errno; 1 when the kernel does not say. */
static inline int ckptfmt_dio_alignment(int fd, uint32_t *memory, uint32_t *offset)
{
    uint32_t statx[64];   /* struct statx is 256 bytes; stx_mask is its first word */
    memset(statx, 0, sizeof statx);
    if (syscall(CKPTFMT_NR_STATX, fd, "", 0x1000 /* AT_EMPTY_PATH */, CKPTFMT_STATX_DIOALIGN, statx) != 0)
        return -1;
    if (!(statx[0] & CKPTFMT_STATX_DIOALIGN))
        return 1;
    *memory = statx[38];  /* stx_dio_mem_align, byte 152 */
    *offset = statx[39];  /* stx_dio_offset_align, byte 156 */
    return 0;
}

/* ---- renameat2 (Linux 3.15; the C library has it from glibc 2.28) ---- */

#define CKPTFMT_RENAME_EXCHANGE 2u

static inline int ckptfmt_renameat2(const char *from, const char *to, unsigned flags)
{
    return (int)syscall(CKPTFMT_NR_RENAMEAT2, -100 /* AT_FDCWD */, from, -100, to, flags);
}

#endif
