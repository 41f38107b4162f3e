/* An io_uring that lives in this process: memory in the kernel's layout, and reads carried out late,
 * the latest first. Every completion asks `decide`, so that a test can say what it brings. */
#define _GNU_SOURCE
#include "faulty_io.h"
#include "syscalls.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { RINGS = 64, ENTRIES = 256 };

struct ring {
    int fd, pending;
    unsigned *words;                        /* heads, tails and masks, as `setup` tells their offsets */
    struct ckptfmt_cqe *cqes;
    struct ckptfmt_sqe *sqes;
    struct ckptfmt_sqe taken[ENTRIES];
};

/* Offsets in the shared memory, in words of 4 bytes. */
enum { SQ_HEAD = 0, SQ_TAIL = 1, SQ_MASK = 2, CQ_HEAD = 16, CQ_TAIL = 17, CQ_MASK = 18, SQ_ARRAY = 32 };
enum { CQES_AT = 4096, RINGS_NBYTES = CQES_AT + 2 * ENTRIES * sizeof(struct ckptfmt_cqe) };

static struct ring *rings[RINGS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct ring *find(int fd)
{
    struct ring *found = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RINGS; i++)
        if (rings[i] && rings[i]->fd == fd)
            found = rings[i];
    pthread_mutex_unlock(&lock);
    return found;
}

int is_fake_ring(int fd)
{
    return find(fd) != NULL;
}

long fake_ring_setup(unsigned entries, void *argument)
{
    struct ckptfmt_uring_params *params = argument;
    struct ring *ring = calloc(1, sizeof *ring);
    unsigned n = 1;
    while (n < entries)
        n *= 2;
    if (n > ENTRIES)
        return -EINVAL;
    ring->fd = memfd_create("fake_ring", MFD_CLOEXEC);
    size_t sqes_nbytes = ENTRIES * sizeof(struct ckptfmt_sqe);
    if (ring->fd < 0 || ftruncate(ring->fd, CKPTFMT_OFF_SQES + sqes_nbytes) != 0)
        return -errno;
    ring->words = mmap(NULL, RINGS_NBYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
    ring->sqes = mmap(NULL, sqes_nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, CKPTFMT_OFF_SQES);
    if (ring->words == MAP_FAILED || ring->sqes == MAP_FAILED)
        return -ENOMEM;
    ring->cqes = (void *)((char *)ring->words + CQES_AT);
    ring->words[SQ_MASK] = n - 1;
    ring->words[CQ_MASK] = 2 * n - 1;
    params->sq_entries = n;
    params->cq_entries = 2 * n;
    params->features = CKPTFMT_FEAT_SINGLE_MMAP;
    params->sq_off.head = 4 * SQ_HEAD;
    params->sq_off.tail = 4 * SQ_TAIL;
    params->sq_off.ring_mask = 4 * SQ_MASK;
    params->sq_off.array = 4 * SQ_ARRAY;
    params->cq_off.head = 4 * CQ_HEAD;
    params->cq_off.tail = 4 * CQ_TAIL;
    params->cq_off.ring_mask = 4 * CQ_MASK;
    params->cq_off.cqes = CQES_AT;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RINGS; i++)
        if (!rings[i]) {
            rings[i] = ring;
            break;
        }
    pthread_mutex_unlock(&lock);
    return ring->fd;
}

static void complete(struct ring *ring)
{
    struct ckptfmt_sqe sqe = ring->taken[--ring->pending];
    struct verdict verdict = decide("uring", sqe.fd, NULL, (long long)sqe.off, sqe.len);
    unsigned tail = ring->words[CQ_TAIL];
    struct ckptfmt_cqe *cqe = &ring->cqes[tail & ring->words[CQ_MASK]];
    cqe->user_data = sqe.user_data;
    cqe->res = (int)faulty_pread(sqe.fd, (void *)sqe.addr, sqe.len, (long long)sqe.off, verdict);
    cqe->flags = 0;
    __atomic_store_n(&ring->words[CQ_TAIL], tail + 1, __ATOMIC_RELEASE);
}

long fake_ring_enter(int fd, unsigned submit, unsigned wait)
{
    struct ring *ring = find(fd);
    struct verdict verdict = decide(submit ? "submit" : "wait", fd, NULL, submit, wait);
    if (verdict.kind == FAIL)
        return -verdict.value;
    unsigned *words = ring->words;
    for (unsigned i = 0; i < submit; i++) {
        unsigned head = words[SQ_HEAD];
        if (head == __atomic_load_n(&words[SQ_TAIL], __ATOMIC_ACQUIRE) || ring->pending == ENTRIES)
            return i;
        ring->taken[ring->pending++] = ring->sqes[words[SQ_ARRAY + (head & words[SQ_MASK])]];
        __atomic_store_n(&words[SQ_HEAD], head + 1, __ATOMIC_RELEASE);
    }
    while (ring->pending && words[CQ_TAIL] - __atomic_load_n(&words[CQ_HEAD], __ATOMIC_ACQUIRE) < wait)
        complete(ring);
    return submit;
}

long fake_ring_register(int fd, unsigned opcode, void *argument)
{
    struct ckptfmt_uring_probe *probe = argument;
    if (!is_fake_ring(fd) || opcode != CKPTFMT_REGISTER_PROBE)
        return -EINVAL;
    probe->last_op = CKPTFMT_OP_READ;
    probe->ops[CKPTFMT_OP_READ].flags = CKPTFMT_OP_SUPPORTED;
    return 0;
}

void fake_ring_closed(int fd)
{
    struct ring *ring = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RINGS; i++)
        if (rings[i] && rings[i]->fd == fd) {
            ring = rings[i];
            rings[i] = NULL;
        }
    pthread_mutex_unlock(&lock);
    if (ring && ring->pending) {
        fprintf(stderr, "fake_ring: closed with %d reads in flight\n", ring->pending);
        abort();
    }
    if (ring) {
        munmap(ring->words, RINGS_NBYTES);
        munmap(ring->sqes, ENTRIES * sizeof(struct ckptfmt_sqe));
        free(ring);
    }
}
