"""How to convert and how to load: two frozen records.

An argument beats the environment beats the default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from ckptfmt import dtypes, layout
from ckptfmt.errors import OptionError
from ckptfmt.topology import MAX_RANKS
from ckptfmt.units import parse_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_PARTITION_NBYTES = 4000 << 20  # a FAT file system holds files below 4 GiB

#: ``table`` has checksums go without the processor's instruction.
CHECKSUM = "CKPTFMT_CHECKSUM"

#: More threads than processors: one reads while another writes.
DEFAULT_WORKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to convert.

    Attributes
    ----------
    dtype : str
        Cast floating tensors of 16 bits and more: ``keep``, ``bf16``, ``fp16`` or ``fp32``.
    alignment : int
        Bytes; a power of two from 4 KiB to 2 MiB.
    partition_nbytes : int
        Limit of a partition's file.
    include, exclude : tuple of str
        Glob patterns on tensor names. With `include`, only names that match one are taken.
    workers : int
        Threads that read, cast and write.
    force : bool
        Replace a checkpoint that is there; begin anew where an unfinished conversion is,
        unless `resume` goes on with it.
    resume : bool
        Go on with an unfinished conversion of the same source with the same options.
    tensor_parallel : int or None
        Cut tensors for so many ranks; 1 joins what was cut.
    tensor_parallel_plan : dict or None
        Rules by pattern on names; None leaves it to the model's own plan.
    """

    dtype: str = "keep"
    alignment: int = layout.MIN_ALIGNMENT
    partition_nbytes: int = DEFAULT_PARTITION_NBYTES
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    workers: int = DEFAULT_WORKERS
    force: bool = False
    resume: bool = False
    tensor_parallel: int | None = None
    tensor_parallel_plan: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        row = dtypes.cast_target(self.dtype)
        # One spelling of each, a torch.dtype's included: it is compared when resuming.
        object.__setattr__(self, "dtype", dtypes.cast_name(row))
        alignment = self.alignment
        low, high = layout.MIN_ALIGNMENT, layout.MAX_ALIGNMENT
        if not low <= alignment <= high or alignment & (alignment - 1):
            raise OptionError(
                f"alignment {alignment} is no power of two from {low} to {high}",
                hint="4KiB serves every disk; 2MiB makes each tensor start on a huge page",
            )
        if self.workers < 1:
            raise OptionError(f"workers is {self.workers}, expected at least 1")
        if self.tensor_parallel is not None:
            _in_range("tensor_parallel", self.tensor_parallel, 1, MAX_RANKS)
        elif self.tensor_parallel_plan is not None:
            raise OptionError("a plan to cut by, and tensor_parallel does not say for how many")

    @classmethod
    def given(
        cls,
        *,
        dtype: str = "keep",
        alignment: int | str = layout.MIN_ALIGNMENT,
        partition_size: int | str = DEFAULT_PARTITION_NBYTES,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        workers: int | None = None,
        force: bool = False,
        resume: bool = False,
        tensor_parallel: int | None = None,
        tensor_parallel_plan: Mapping[str, Any] | None = None,
    ) -> ConvertOptions:
        """As people give them: byte counts with units, one pattern or several, None for 4."""
        return cls(
            dtype=dtype,
            alignment=parse_nbytes(alignment),
            partition_nbytes=parse_nbytes(partition_size),
            include=_patterns(include),
            exclude=_patterns(exclude),
            workers=DEFAULT_WORKERS if workers is None else workers,
            force=force,
            resume=resume,
            tensor_parallel=tensor_parallel,
            tensor_parallel_plan=tensor_parallel_plan,
        )

    def content(self) -> dict[str, object]:
        """The options that decide what is written, for provenance and for ``--resume``."""
        content = {
            "dtype": self.dtype,
            "alignment": self.alignment,
            "partition_nbytes": self.partition_nbytes,
            "include": list(self.include),
            "exclude": list(self.exclude),
        }
        if self.tensor_parallel is not None:
            content["tensor_parallel"] = self.tensor_parallel
            if self.tensor_parallel_plan is not None:
                # Pairs: the first rule that matches counts, and keys are sorted when stored.
                content["tensor_parallel_plan"] = [*map(list, self.tensor_parallel_plan.items())]
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How to get at a repository on a hub.

    Attributes
    ----------
    hub : str or None
        ``huggingface`` or ``modelscope``; None leaves it to the address.
    revision : str or None
        Branch, tag or commit.
    token : str or None
        To log in with; None leaves it to the hub's client. It is never written or shown.
    stream : bool
        Convert as the bytes come, and keep no file of the hub's.
    """

    hub: str | None = None
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    stream: bool = False

    def given(self) -> list[str]:
        """Names of the options that ask for something."""
        return [f.name for f in fields(self) if getattr(self, f.name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to read. Every field may also be set by ``CKPTFMT_<NAME>`` in the environment.

    Attributes
    ----------
    io : str
        ``auto`` (io_uring where the system permits it), ``io_uring`` or ``pread``.
    reads : str
        ``auto`` (direct for what is not in the page cache), ``direct`` or ``buffered``.
    threads : int
        Workers; 0 chooses by the processors at hand.
    depth : int
        Direct reads in flight for each worker with io_uring.
    op_nbytes : int
        Bytes of one read; a multiple of 1 MiB, at most 7 MiB: with the block that may be added, a
        read in flight stays within 8 MiB.
    npu_staging : str
        How bytes reach an NPU: ``auto``, or one of ``A`` to ``E`` (docs/devices.md).
    cuda_staging : str
        How bytes reach a GPU: ``auto``, or one of ``A``, ``C``, ``D`` and ``G``.
    pool_nbytes : int
        Host memory that reads on their way to a device may take, for each device.
    sync_copy : bool
        Copy to devices synchronously, one copy of a worker after the other.
    """

    io: Literal["auto", "io_uring", "pread"] = "auto"
    reads: Literal["auto", "direct", "buffered"] = "auto"
    threads: int = 0
    depth: int = 8
    op_nbytes: int = 4 << 20
    npu_staging: Literal["auto", "A", "B", "C", "D", "E"] = "auto"
    cuda_staging: Literal["auto", "A", "C", "D", "G"] = "auto"
    pool_nbytes: int = 256 << 20
    sync_copy: bool = False

    def __post_init__(self) -> None:
        _one_of("io", self.io, ("auto", "io_uring", "pread"))
        _one_of("reads", self.reads, ("auto", "direct", "buffered"))
        _in_range("threads", self.threads, 0, 256)
        _in_range("depth", self.depth, 1, 256)
        _in_range("op_nbytes", self.op_nbytes, layout.BLOCK_NBYTES, 7 * layout.BLOCK_NBYTES)
        if self.op_nbytes % layout.BLOCK_NBYTES:
            raise OptionError(f"op_nbytes is {self.op_nbytes}, expected a multiple of 1 MiB")
        _one_of("npu_staging", self.npu_staging, ("auto", "A", "B", "C", "D", "E"))
        _one_of("cuda_staging", self.cuda_staging, ("auto", "A", "C", "D", "G"))
        _in_range("pool_nbytes", self.pool_nbytes, 16 << 20, 64 << 30)
        _one_of("sync_copy", self.sync_copy, (False, True))

    @classmethod
    def from_environment(cls) -> LoadOptions:
        """The defaults, with what ``CKPTFMT_*`` variables say."""
        given: dict[str, str | int | bool] = {}
        # The native module looks at it when it is loaded, and cannot say that it is misspelt.
        _one_of(CHECKSUM, os.environ.get(CHECKSUM) or "auto", ("auto", "table"))
        for option in fields(cls):
            variable = f"CKPTFMT_{option.name.upper()}"
            text = os.environ.get(variable, "")
            if not text:
                continue
            try:
                given[option.name] = _parse(text, option.default)
            except OptionError as error:
                raise OptionError(f"{variable}: {error}", hint=error.hint) from error
            try:
                cls(**{option.name: given[option.name]})  # type: ignore[arg-type]
            except OptionError as error:
                raise OptionError(f"{variable}: {error}", hint=error.hint) from error
        return cls(**cast("dict[str, int]", given))  # type: ignore[arg-type]


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern is no list of letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _parse(text: str, default: object) -> str | int | bool:
    """A variable's text as a value of the default's kind."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in ("0", "1"):
            raise OptionError(f"{text!r} is neither 0 nor 1")
        return text == "1"
    return parse_nbytes(text)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}, expected one of {', '.join(map(str, allowed))}")


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name} is {value}, expected {low} to {high}")
