/* What the machine can do: read whole files into fresh huge-page memory, and nothing else.
 *
 *   ceiling direct|direct-crc|buffered|buffered-crc cold|warm DEPTH BLOCK THREADS FILE...
 *
 * Reads everything once untimed, establishes and checks the state of the page cache, waits for a virtual
 * machine's host (see cache.py), drops the memory, reads everything again and prints one line of JSON. `direct` keeps DEPTH O_DIRECT reads in flight in
 * one io_uring; `buffered` copies from the page cache by THREADS threads.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "../../ckptfmt/_native/crc32c.h"
#include "../../ckptfmt/_native/syscalls.h"

#define HUGE (2ul << 20)
#define CRC_BLOCK (1ul << 20)

struct read_op { int fd; uint64_t offset; char *address; size_t nbytes; };

static struct read_op *ops;
static size_t n_ops, next_op, total;
static unsigned depth, threads;
static size_t block;
static int with_crc;
static volatile uint32_t crc_sink;

static void die(const char *what)
{
    fprintf(stderr, "ceiling: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void crc_blocks(const char *p, size_t nbytes)
{
    for (size_t at = 0; at < nbytes; at += CRC_BLOCK)
        crc_sink ^= ckptfmt_crc32c(0, p + at, nbytes - at < CRC_BLOCK ? nbytes - at : CRC_BLOCK);
}

static void read_direct(void)
{
    struct ckptfmt_uring_params params;
    memset(&params, 0, sizeof params);
    int ring = ckptfmt_uring_setup(depth, &params);
    if (ring < 0)
        die("io_uring_setup");
    size_t sq_nbytes = params.sq_off.array + params.sq_entries * 4;
    size_t cq_nbytes = params.cq_off.cqes + params.cq_entries * sizeof(struct ckptfmt_cqe);
    char *base = mmap(NULL, sq_nbytes > cq_nbytes ? sq_nbytes : cq_nbytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_POPULATE, ring, CKPTFMT_OFF_SQ_RING);
    struct ckptfmt_sqe *sqes = mmap(NULL, params.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_POPULATE, ring, CKPTFMT_OFF_SQES);
    unsigned *sq_tail = (void *)(base + params.sq_off.tail), *array = (void *)(base + params.sq_off.array);
    unsigned *cq_head = (void *)(base + params.cq_off.head), *cq_tail = (void *)(base + params.cq_off.tail);
    unsigned sq_mask = *(unsigned *)(base + params.sq_off.ring_mask);
    unsigned cq_mask = *(unsigned *)(base + params.cq_off.ring_mask);
    struct ckptfmt_cqe *cqes = (void *)(base + params.cq_off.cqes);
    size_t submitted = 0, done = 0;
    while (done < n_ops) {
        while (submitted < n_ops && submitted - done < depth) {
            struct read_op *op = &ops[submitted];
            unsigned tail = *sq_tail, i = tail & sq_mask;
            memset(&sqes[i], 0, sizeof sqes[i]);
            sqes[i].opcode = CKPTFMT_OP_READ;
            sqes[i].fd = op->fd;
            sqes[i].off = op->offset;
            sqes[i].addr = (uint64_t)op->address;
            sqes[i].len = (op->nbytes + 4095) & ~4095ul;
            sqes[i].user_data = submitted++;
            array[i] = i;
            __atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
            if (ckptfmt_uring_enter(ring, 1, 0, 0) != 1)
                die("io_uring_enter");
        }
        if (*cq_head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
            if (ckptfmt_uring_enter(ring, 0, 1, CKPTFMT_ENTER_GETEVENTS) < 0 && errno != EINTR)
                die("io_uring_enter");
            continue;
        }
        struct ckptfmt_cqe cqe = cqes[*cq_head & cq_mask];
        __atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
        struct read_op *op = &ops[cqe.user_data];
        if (cqe.res < (int)op->nbytes) {
            errno = cqe.res < 0 ? -cqe.res : EIO;
            die("read");
        }
        if (with_crc)
            crc_blocks(op->address, op->nbytes);
        done++;
    }
    close(ring);
}

static void *buffered_worker(void *unused)
{
    (void)unused;
    for (;;) {
        size_t i = __atomic_fetch_add(&next_op, 1, __ATOMIC_RELAXED);
        if (i >= n_ops)
            return NULL;
        struct read_op *op = &ops[i];
        size_t filled = 0, step = with_crc ? CRC_BLOCK : op->nbytes;
        while (filled < op->nbytes) {
            size_t want = op->nbytes - filled < step ? op->nbytes - filled : step;
            ssize_t got = pread(op->fd, op->address + filled, want, op->offset + filled);
            if (got <= 0)
                die("pread");
            if (with_crc)
                crc_blocks(op->address + filled, got);
            filled += got;
        }
    }
}

static void read_buffered(void)
{
    pthread_t pool[64];
    next_op = 0;
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&pool[i], NULL, buffered_worker, NULL) != 0)
            die("pthread_create");
    for (unsigned i = 0; i < threads; i++)
        pthread_join(pool[i], NULL);
}

/* One byte of every 4 KiB page, as the contenders' harness reads them (it calls this very function). */
unsigned touch(const char *const *addresses, const size_t *nbytes, size_t count)
{
    unsigned sum = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < nbytes[i]; at += 4096)
            sum += *(volatile const unsigned char *)(addresses[i] + at);
    return sum;
}

/* Not ru_maxrss, which an exec carries over from the parent. */
static long peak_rss(void)
{
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return kib * 1024;
}

static double cached_share(char **files, int count)
{
    uint64_t cached = 0, pages = 0;
    for (int i = 0; i < count; i++) {
        int fd = open(files[i], O_RDONLY);
        struct stat status;
        struct ckptfmt_cachestat found;
        if (fd < 0 || fstat(fd, &status) != 0 || ckptfmt_cachestat(fd, 0, status.st_size, &found) != 0)
            die(files[i]);
        cached += found.cached;
        pages += (status.st_size + 4095) / 4096;
        close(fd);
    }
    return (double)cached / pages;
}

static void establish(char **files, int count, int cold)
{
    char *buffer = malloc(1 << 20);
    for (int i = 0; i < count; i++) {
        int fd = open(files[i], O_RDONLY);
        if (fd < 0)
            die(files[i]);
        if (cold)
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        else if (cached_share(&files[i], 1) < 1)
            while (read(fd, buffer, 1 << 20) > 0)
                ;
        close(fd);
    }
    free(buffer);
}

static long reported_kib(void)
{
    long kib = -1;
    FILE *file = fopen("/sys/module/page_reporting/parameters/reported_kib", "r");
    if (file != NULL) {
        if (fscanf(file, "%ld", &kib) != 1)
            kib = -1;
        fclose(file);
    }
    return kib;
}

/* As wait_for_host in ckptfmt.bench.cache_state. */
static void wait_for_host(void)
{
    double began = now(), quiet_since = began;
    long last = reported_kib();
    while (last >= 0 && now() < quiet_since + 2.2 && now() < began + 15) {
        nanosleep(&(struct timespec){0, 100000000}, NULL);
        long kib = reported_kib();
        if (kib != last) {
            last = kib;
            quiet_since = now();
        }
    }
}

static void plan(char *memory, char **files, int count, int direct)
{
    size_t at = 0;
    n_ops = 0;
    for (int i = 0; i < count; i++) {
        struct stat status;
        int fd = open(files[i], O_RDONLY | (direct ? O_DIRECT : 0));
        if (fd < 0 || fstat(fd, &status) != 0)
            die(files[i]);
        for (size_t offset = 0; offset < (size_t)status.st_size; offset += block, n_ops++) {
            size_t nbytes = (size_t)status.st_size - offset < block ? (size_t)status.st_size - offset : block;
            ops[n_ops] = (struct read_op){fd, offset, memory + at + offset, nbytes};
        }
        at += (status.st_size + 4095) & ~4095ul;
    }
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr, "usage: ceiling direct|direct-crc|buffered|buffered-crc cold|warm DEPTH BLOCK THREADS FILE...\n");
        return 2;
    }
    int direct = strncmp(argv[1], "direct", 6) == 0, cold = strcmp(argv[2], "cold") == 0;
    with_crc = strstr(argv[1], "crc") != NULL;
    depth = atoi(argv[3]);
    block = strtoull(argv[4], NULL, 10);
    threads = atoi(argv[5]);
    char **files = argv + 6;
    int count = argc - 6;
    size_t data = 0;
    for (int i = 0; i < count; i++) {
        struct stat status;
        if (stat(files[i], &status) != 0)
            die(files[i]);
        data += status.st_size;
        total += (status.st_size + 4095) & ~4095ul;
    }
    ops = calloc(total / block + count + 1, sizeof *ops);
    double seconds = 0, first = 0;
    struct rusage before, after;
    char *raw = NULL;
    for (int turn = 0; turn < 2; turn++) {
        establish(files, count, cold);
        double share = cached_share(files, count);
        if (turn == 1 && (cold ? share > 0.01 : share < 0.99)) {
            fprintf(stderr, "ceiling: %.3f of the files is cached\n", share);
            return 3;
        }
        if (turn == 1) {
            wait_for_host();
            munmap(raw, total + HUGE);
        }
        getrusage(RUSAGE_SELF, &before);
        double began = now();
        raw = mmap(NULL, total + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *memory = (char *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));
        madvise(memory, total, MADV_HUGEPAGE);
        plan(memory, files, count, direct);
        direct ? read_direct() : read_buffered();
        touch((const char *const *)&memory, &total, 1);
        seconds = now() - began;
        getrusage(RUSAGE_SELF, &after);
        if (turn == 0)
            first = seconds;
        for (size_t i = 0; i < n_ops; i++)
            if (i + 1 == n_ops || ops[i + 1].fd != ops[i].fd)
                close(ops[i].fd);
    }
    double cpu = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) + (after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
                 (after.ru_utime.tv_usec - before.ru_utime.tv_usec) / 1e6 +
                 (after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
    printf("{\"nbytes\": %zu, \"seconds\": %.6f, \"first_seconds\": %.6f, \"cpu_seconds\": %.6f, "
           "\"peak_rss_nbytes\": %ld, \"faults\": %ld}\n",
           data, seconds, first, cpu, peak_rss(), after.ru_minflt - before.ru_minflt);
    return 0;
}
