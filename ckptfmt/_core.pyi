"""The engine, and the native names that the package uses: nothing else imports ``_native``."""

from typing import Literal, final

from typing_extensions import Buffer

from ckptfmt._native.acl_control import Acl as Acl
from ckptfmt._native.acl_control import acl_has as acl_has
from ckptfmt._native.acl_symbols import open_acl as open_acl
from ckptfmt._native.checksum import crc32c as crc32c
from ckptfmt._native.checksum import crc32c_combine as crc32c_combine
from ckptfmt._native.checksum import crc32c_implementation as crc32c_implementation
from ckptfmt._native.cuda_control import Cudart as Cudart
from ckptfmt._native.cuda_symbols import open_cuda as open_cuda
from ckptfmt._native.dlpack import capsule as capsule
from ckptfmt._native.files import cached_nbytes as cached_nbytes
from ckptfmt._native.files import dio_alignment as dio_alignment
from ckptfmt._native.files import fallocate as fallocate
from ckptfmt._native.files import pread_into as pread_into
from ckptfmt._native.files import rename_exchange as rename_exchange
from ckptfmt._native.files import resident_nbytes as resident_nbytes
from ckptfmt._native.gds import CuFile as CuFile
from ckptfmt._native.gds import open_cufile as open_cufile
from ckptfmt._native.memory import Memory as Memory
from ckptfmt._native.memory import Region as Region
from ckptfmt._native.memory import advise_huge_pages as advise_huge_pages

__all__ = [
    "Acl",
    "CuFile",
    "Cudart",
    "Engine",
    "Memory",
    "Region",
    "acl_has",
    "advise_huge_pages",
    "cached_nbytes",
    "capsule",
    "crc32c",
    "crc32c_combine",
    "crc32c_implementation",
    "dio_alignment",
    "fallocate",
    "io_uring_errno",
    "open_acl",
    "open_cuda",
    "open_cufile",
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
        Scan, `bounced`, and on the way to a device: room for the largest op.
    bounced : bool
        Direct reads of ops whose address is no multiple of 4096 go to memory of the engine's own,
        and their bytes are copied from there.
    drop_behind : bool
        Leave nothing in the page cache of what was read through it.
    events : buffer, optional
        Room for a trace, an array of ``trace.TRACE_DTYPE``.

    Raises
    ------
    ValueError
        There is no such I/O table.
    MemoryError
        Memory of the engine's own cannot be had.
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
        bounced: bool = False,
        drop_behind: Buffer | None = None,
        events: Buffer | None = None,
    ) -> None: ...
    def send_to(
        self,
        kind: Literal["npu", "cuda"],
        device: int,
        copies: Buffer,
        copy_begins: Buffer,
        *,
        n_slots: int,
        pool: int,
        bounce: int = 0,
        after: int = 0,
        copy_now: bool = False,
    ) -> None:
        """Have the ops' bytes go on to a device. To be called before any thread works.

        Parameters
        ----------
        kind : str
            Whose runtime.
        device : int
            Its number.
        copies : buffer
            Array of ``device_plan.COPY_DTYPE``; addresses are the device's.
        copy_begins : buffer
            int64, one for each op and one more: where the copies of an op begin.
        n_slots : int
            Slots of each worker, at least its reads in flight.
        pool, bounce : int
            Addresses of `workers` times `n_slots` times ``slot_nbytes`` bytes that copies come
            from, and of as many that direct reads go to, or 0 if those may go to the pool.
        after : int
            An event that copies wait for, or 0.
        copy_now : bool
            Wait for each copy.

        Raises
        ------
        ValueError
            There are fewer slots than reads in flight.
        RuntimeError
            ACL has not been opened.
        """
    @property
    def io(self) -> Literal["io_uring", "pread"]:
        """The I/O table."""
    @property
    def workers(self) -> int:
        """How many threads were announced."""
    def read_there(self, device: int, files: CuFile) -> None:
        """Have buffered ops read straight into a GPU's memory, before any thread works.

        Parameters
        ----------
        device : int
            Its number; the ops' addresses are its own.
        files : CuFile
            The plan's files, in their order.
        """
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
    def failure(self) -> tuple[Literal["read", "end", "checksum", "device"], int, int, int] | None:
        """The first failure: its kind, the op, a code and the block; None if there is none.

        The code is an errno for ``"read"`` and ``"end"``, and the checksum found for
        ``"checksum"``; the block only means something then. For ``"device"`` see
        :attr:`device_fault`.
        """
    @property
    def device_fault(self) -> tuple[str, int, str]:
        """The device's function that failed, its code and what the runtime said."""
    @property
    def release_fault(self) -> tuple[str, int, str] | None:
        """A function that should have given back a stream or an event and failed; as above."""
    @property
    def undrained(self) -> bool:
        """Reads or copies cannot be waited for and may still be in flight, in the plan's memory."""
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
    def seconds(
        self,
    ) -> dict[Literal["disk_wait", "buffered_read", "checksum", "device_wait"], float]:
        """Time spent, summed over the workers; ``buffered_read`` includes its checksums."""
    @property
    def n_events(self) -> int:
        """How many events the trace has."""
