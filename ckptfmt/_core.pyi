"""The engine, and the native names that the package uses: nothing else imports ``_native``."""

from typing import Literal, final

from typing_extensions import Buffer

from ckptfmt._native.checksum import crc32c as crc32c
from ckptfmt._native.checksum import crc32c_combine as crc32c_combine
from ckptfmt._native.checksum import crc32c_implementation as crc32c_implementation
from ckptfmt._native.files import cached_nbytes as cached_nbytes
from ckptfmt._native.files import dio_alignment as dio_alignment
from ckptfmt._native.files import fallocate as fallocate
from ckptfmt._native.files import pread_into as pread_into
from ckptfmt._native.files import rename_exchange as rename_exchange
from ckptfmt._native.files import resident_nbytes as resident_nbytes
from ckptfmt._native.memory import Memory as Memory
from ckptfmt._native.memory import Region as Region

__all__ = [
    "Engine",
    "Memory",
    "Region",
    "cached_nbytes",
    "crc32c",
    "crc32c_combine",
    "crc32c_implementation",
    "dio_alignment",
    "fallocate",
    "io_uring_errno",
    "pread_into",
    "rename_exchange",
    "resident_nbytes",
]

def io_uring_errno() -> int:
    """Try whether this process may use io_uring and can read with it.

    Returns
    -------
    int
        0, or the errno that says why not: EPERM where it is forbidden, ENOSYS where the kernel does
        not have it.
    """

@final
class Engine:
    """One read plan being carried out; its threads are the caller's.

    Each thread calls :meth:`work` once. Addresses in `ops` are written to without any check: who
    makes an engine answers for them, and keeps what they point to until :meth:`work` has returned
    in every thread, or for ever if :attr:`undrained` is true.

    Parameters
    ----------
    ops, blocks : buffer
        Arrays of ``read_plan.OP_DTYPE`` and ``read_plan.BLOCK_DTYPE``; direct reads stand first.
    direct_fds, buffered_fds : buffer
        int32, one for each file: opened with and without O_DIRECT. At least one each.
    n_direct : int
        How many of `ops` are read directly.
    io : str
        ``"io_uring"`` or ``"pread"``.
    depth : int
        Direct reads that a worker keeps in flight; 1 with pread.
    workers : int
        How many threads call :meth:`work`, at most.
    verify : bool
        Compare the checksum of each block as it lands.
    found, dirty : buffer, optional
        Scan: uint32 and uint8, one for each block. Bytes go to memory of the engine's own, and
        these are filled with each block's checksum and whether other than zeros follow it.
    slot_nbytes : int
        Scan: room for the largest op.

    Raises
    ------
    ValueError
        There is no such I/O table.
    MemoryError
        A scan's own memory cannot be had.
    """

    def __init__(
        self,
        ops: Buffer,
        blocks: Buffer,
        direct_fds: Buffer,
        buffered_fds: Buffer,
        *,
        n_direct: int,
        io: str,
        depth: int,
        workers: int,
        verify: bool,
        found: Buffer | None = None,
        dirty: Buffer | None = None,
        slot_nbytes: int = 0,
    ) -> None: ...
    @property
    def io(self) -> Literal["io_uring", "pread"]:
        """The I/O table."""
    @property
    def workers(self) -> int:
        """How many threads were announced."""
    def work(self) -> None:
        """Read until the plan ends, something fails, or :meth:`stop`; without the GIL.

        It never raises: see :attr:`failure`. When it returns, none of this thread's reads is in
        flight, unless :attr:`undrained`.
        """
    def stop(self) -> None:
        """Begin no further read; what is in flight is waited for. From any thread."""
    @property
    def done_nbytes(self) -> int:
        """Bytes that have landed (and been verified) so far."""
    @property
    def failure(self) -> tuple[Literal["read", "end", "checksum"], int, int, int] | None:
        """The first failure: its kind, the op, a code and the block; None if there is none.

        The code is an errno for ``"read"`` and ``"end"``, and the checksum found for
        ``"checksum"``; the block only means something then.
        """
    @property
    def undrained(self) -> bool:
        """A ring could not be waited for: reads into the plan's memory may still be in flight."""
    @property
    def scratch_nbytes(self) -> int:
        """Memory of the engine's own, in bytes: 0 unless it scans."""
    @property
    def ring_errno(self) -> int:
        """Why a worker had to do without its ring and read by pread; 0 if none had to."""
    @property
    def without_ring(self) -> int:
        """How many workers had to."""
    @property
    def seconds(self) -> dict[Literal["disk_wait", "buffered_read", "checksum"], float]:
        """Time spent, summed over the workers; ``buffered_read`` includes its checksums."""
