/* libcufile without GPUDirect Storage: what it would move directly goes through memory of its own.
 *
 * FAKE_CUFILE: "no driver", "no file", "short" (never more than 1 MiB at once), "fails". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

typedef struct { int code, driver; } error;
typedef struct { int kind, padding; long long fd; const void *operations; } descriptor;

int cudaMemcpy(void *to, const void *source, size_t nbytes, int kind);
API error cuFileDriverOpen(void);
API error cuFileDriverGetProperties(unsigned *properties);
API error cuFileHandleRegister(void **handle, const descriptor *file);
API void cuFileHandleDeregister(void *handle);
API ssize_t cuFileRead(void *handle, char *base, size_t nbytes, off_t offset, off_t within);

static char known[4096];

static int is(const char *what)
{
    const char *wanted = getenv("FAKE_CUFILE");
    return wanted && strcmp(wanted, what) == 0;
}

error cuFileDriverOpen(void)
{
    return (error){0, 0};
}

error cuFileDriverGetProperties(unsigned *properties)
{
    properties[0] = !is("no driver");
    return (error){0, 0};
}

error cuFileHandleRegister(void **handle, const descriptor *file)
{
    *handle = (void *)(file->fd + 1);
    if (is("no file") || file->fd >= (long long)sizeof known)
        return (error){5027, 0};
    /* A file is registered once by its descriptor. */
    return (error){__atomic_exchange_n(&known[file->fd], 1, __ATOMIC_SEQ_CST) ? 5025 : 0, 0};
}

void cuFileHandleDeregister(void *handle)
{
    __atomic_store_n(&known[(long long)handle - 1], 0, __ATOMIC_SEQ_CST);
}

ssize_t cuFileRead(void *handle, char *base, size_t nbytes, off_t offset, off_t within)
{
    size_t step = is("short") && nbytes > 1 << 20 ? 1 << 20 : nbytes;
    if (is("fails")) {
        errno = EIO;
        return -1;
    }
    /* The file is open for direct reads: whole sectors, to memory that begins at one. */
    off_t start = offset / 4096 * 4096;
    size_t before = (size_t)(offset - start), room = (before + step + 4095) / 4096 * 4096;
    char *bounce;
    if (posix_memalign((void **)&bounce, 4096, room))
        return -5;
    ssize_t got = pread((int)(long long)handle - 1, bounce, room, start);
    ssize_t there = got < 0 ? got : got - (ssize_t)before;
    if (there > (ssize_t)step)
        there = (ssize_t)step;
    if (there > 0 && cudaMemcpy(base + within, bounce + before, (size_t)there, 1))
        there = -5;
    free(bounce);
    return there;
}
