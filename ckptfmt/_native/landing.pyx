"""What happens to an op's bytes where they land: checksums, padding, and buffered reads."""

from libc.errno cimport ENODATA
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy

from ckptfmt._native.atomic cimport fetch_add, load_flag
from ckptfmt._native.checksum cimport crc32c_of
from ckptfmt._native.io_pread cimport pread_retry
from ckptfmt._native.run cimport (
    CHECKSUM, COPYING, FILE_ENDED, READING_BUFFERED, READ_FAILED, SUMMING, Block, ReadOp, Run, fail,
    note, now_ns,
)

cdef extern from "<fcntl.h>" nogil:
    int posix_fadvise(int fd, long long offset, long long nbytes, int advice)
    int POSIX_FADV_DONTNEED

cdef enum:
    STEP = 1 << 20            # buffered reads go in steps that stay in the cache for the checksum
    BEHIND = 64 << 20


cdef bint is_zero(const char *p, size_t nbytes) noexcept nogil:
    return nbytes == 0 or (p[0] == 0 and memcmp(p, p + 1, nbytes - 1) == 0)


cdef int64_t check_blocks(Run *run, int worker, int64_t i, const char *base, int64_t block,
                          size_t filled) noexcept nogil:
    """Verify the op's blocks that `filled` bytes complete; the first one left, or -1."""
    cdef const ReadOp *op = &run.ops[i]
    cdef const Block *b
    cdef uint32_t crc
    cdef size_t stop, end
    cdef int64_t first = block
    cdef long long began = now_ns()
    while block < op.first_block + op.n_blocks:
        b = &run.blocks[block]
        stop = <size_t>b.start + b.nbytes
        if stop > filled:
            break
        if run.found != NULL:
            # A scan also looks at the padding, which reaches to the next block or the op's end.
            end = <size_t>op.nbytes
            if block + 1 < op.first_block + op.n_blocks:
                end = <size_t>run.blocks[block + 1].start
            if end > filled:
                break
            run.dirty[block] = not is_zero(base + stop, end - stop)
            run.found[block] = crc32c_of(0, base + b.start, b.nbytes)
        else:
            crc = crc32c_of(0, base + b.start, b.nbytes)
            if crc != b.crc:
                fail(run, CHECKSUM, i, <int>crc, block)
                return -1
        block += 1
    fetch_add(&run.checksum_ns, now_ns() - began)
    if block > first:
        note(run, SUMMING, worker, i, run.blocks[block - 1].start + run.blocks[block - 1].nbytes
             - run.blocks[first].start, began)
    return block


cdef bint place(Run *run, int worker, int64_t i, const char *base) noexcept nogil:
    """Copy op `i`, all of which is at `base`, to where it stays; verify each step before it goes.

    True if all of it is right.
    """
    cdef const ReadOp *op = &run.ops[i]
    cdef char *target = <char *><uintptr_t>op.address
    cdef int64_t block = op.first_block
    cdef size_t done = 0, end
    cdef long long began
    while done < <size_t>op.nbytes:
        end = min(<size_t>op.nbytes, done + <size_t>STEP)
        if run.verify:
            block = check_blocks(run, worker, i, base, block, end)
            if block < 0:
                return False
        began = now_ns()
        memcpy(target + done, base + done, end - done)
        note(run, COPYING, worker, i, <int64_t>(end - done), began)
        done = end
    return True


cdef bint read_buffered(Run *run, int worker, int64_t i, char *base, size_t filled) noexcept nogil:
    """Read the rest of op `i` through the page cache; verify each step while it is in the CPU's.

    True if all of it is there and right.
    """
    cdef const ReadOp *op = &run.ops[i]
    cdef int fd = run.buffered_fds[op.file]
    cdef int64_t block = op.first_block
    cdef size_t target
    cdef long long got
    cdef long long began = now_ns()
    while True:
        if run.verify and filled != 0:
            block = check_blocks(run, worker, i, base, block, filled)
            if block < 0:
                return False
        if filled >= <size_t>op.nbytes:
            break
        if load_flag(&run.stop):
            return False
        target = <size_t>op.nbytes - filled
        if run.read_there != NULL:
            got = run.read_there(run.handles[op.file], base + filled, target,
                                 op.offset + <long long>filled)
        else:
            target = min(target, <size_t>STEP)
            got = pread_retry(fd, base + filled, target, op.offset + <long long>filled)
        if got == 0:
            fail(run, FILE_ENDED, i, ENODATA, op.first_block)
            return False
        if got < 0:
            fail(run, READ_FAILED, i, <int>-got, op.first_block)
            return False
        filled += <size_t>got
    if run.drop_behind != NULL and run.drop_behind[op.file]:
        posix_fadvise(fd, op.offset, op.nbytes, POSIX_FADV_DONTNEED)
        # What stands across the ends of reads stays; by now nobody reads that far back.
        posix_fadvise(fd, max(<long long>0, op.offset - 2 * BEHIND), BEHIND, POSIX_FADV_DONTNEED)
    fetch_add(&run.buffered_ns, now_ns() - began)
    fetch_add(&run.done_nbytes, op.nbytes)
    note(run, READING_BUFFERED, worker, i, op.nbytes, began)
    return True
