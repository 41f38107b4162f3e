"""What a load did, and which piece of hardware it waited for."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStrategy:
    """How one partition was read, and why.

    Attributes
    ----------
    direct_nbytes, buffered_nbytes, mapped_nbytes : int
        Bytes read past the page cache, through it, and mapped without reading.
    reason : str
        What decided it.
    """

    direct_nbytes: int = 0
    buffered_nbytes: int = 0
    mapped_nbytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """Statistics of one load.

    Attributes
    ----------
    nbytes : int
        Bytes of the tensors, tied ones once.
    read_nbytes, verified_nbytes : int
        Bytes read from files; bytes whose checksum was compared.
    unverified : str
        Why nothing could be verified; empty if it could.
    seconds : float
        From the plan to the last byte in place.
    engine : str
        ``io_uring``, ``pread``, ``mmap`` or ``cuFile``: what really ran.
    engine_reason : str
        Why it was not io_uring; empty if it was, or was not wanted.
    threads, depth, op_nbytes : int
        As they were used.
    huge_pages : bool
        Whether the system accepted the advice to use them.
    files : dict
        :class:`FileStrategy` for each partition read.
    disk_wait_seconds, buffered_read_seconds, checksum_seconds, device_wait_seconds : float
        Mean over the workers: waiting for direct reads; in buffered reads, their checksums
        included; in checksums; waiting for the device (0 on a CPU).
    staging : str
        How bytes reach the device; on a CPU they are read to where they stay.
    devices : tuple of str
        Where the tensors are.
    device_start_seconds : float
        For bringing up the devices' runtime, before `seconds` begin.
    peak_pool_nbytes : int
        Most memory ever held beside the tensors.
    """

    nbytes: int = 0
    read_nbytes: int = 0
    verified_nbytes: int = 0
    unverified: str = ""
    seconds: float = 0.0
    engine: str = ""
    engine_reason: str = ""
    threads: int = 0
    depth: int = 0
    op_nbytes: int = 0
    huge_pages: bool = False
    files: dict[str, FileStrategy] = field(default_factory=dict)
    disk_wait_seconds: float = 0.0
    buffered_read_seconds: float = 0.0
    checksum_seconds: float = 0.0
    device_wait_seconds: float = 0.0
    staging: str = "none: read in place"
    devices: tuple[str, ...] = ("cpu",)
    device_start_seconds: float = 0.0
    peak_pool_nbytes: int = 0

    def plus(self, more: LoadStats) -> LoadStats:
        """The sums over two readings that are one load; what cannot be summed is the latter's."""
        latter = self if self.read_nbytes and not more.read_nbytes else more
        files = dict(self.files)
        for name, new in more.files.items():
            old = files.get(name, FileStrategy())
            files[name] = replace(
                new, **{key: getattr(old, key) + getattr(new, key) for key in _FILE_SUMS}
            )
        sums = {key: getattr(self, key) + getattr(more, key) for key in _SUMS}
        peak = max(self.peak_pool_nbytes, more.peak_pool_nbytes)
        return replace(latter, **sums, files=files, peak_pool_nbytes=peak)

    def beside(self, other: LoadStats) -> LoadStats:
        """Of two readings that ran at the same time, to two devices: bytes add up, times do not."""
        both = self.plus(other)
        times = {key: max(getattr(self, key), getattr(other, key)) for key in _TIMES}
        staging = self.staging
        if other.staging != staging:
            staging += f"; {other.staging}"
        return replace(
            both, **times, staging=staging, threads=self.threads + other.threads,
            devices=(*self.devices, *other.devices),
            peak_pool_nbytes=self.peak_pool_nbytes + other.peak_pool_nbytes,
        )  # fmt: skip

    @property
    def gb_s(self) -> float:
        """10⁹ bytes of tensors a second."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    @property
    def bottleneck(self) -> str:
        """The piece that most of the time was spent on."""
        buffered_checksum = self.checksum_seconds if self.buffered_read_seconds else 0.0
        parts = {
            "disk": self.disk_wait_seconds,
            "memory (copy from the page cache)": self.buffered_read_seconds - buffered_checksum,
            "processor (checksums)": self.checksum_seconds,
            "device": self.device_wait_seconds,
        }
        name = max(parts, key=lambda part: parts[part])
        return name if parts[name] > 0.5 * self.seconds else "processor (planning, making tensors)"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, derived ones included."""
        return {**asdict(self), "gb_s": self.gb_s, "bottleneck": self.bottleneck}


_SUMS = (
    "nbytes", "read_nbytes", "verified_nbytes", "seconds", "disk_wait_seconds",
    "buffered_read_seconds", "checksum_seconds", "device_wait_seconds",
)  # fmt: skip
_TIMES = tuple(key for key in _SUMS if key.endswith("seconds"))
_FILE_SUMS = ("direct_nbytes", "buffered_nbytes", "mapped_nbytes")

_last = threading.local()


def remember(stats: LoadStats) -> LoadStats:
    """Keep the statistics of this thread's latest load."""
    _last.stats = stats
    return stats


def load_stats() -> LoadStats | None:
    """Statistics of the latest load that this thread finished, None before the first."""
    stats: LoadStats | None = getattr(_last, "stats", None)
    return stats
