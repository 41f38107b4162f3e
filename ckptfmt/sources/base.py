"""What every source offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ckptfmt.topology import Topology
    from ckptfmt.write_plan import TensorSpec


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that tensors are read from: for provenance, and to notice a change.

    Attributes
    ----------
    name : str
        Relative to the source.
    nbytes : int
        Its size.
    mtime_ns : int
        Its time of change. It decides about ``--resume`` and is stored nowhere else.
    """

    name: str
    nbytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A file that travels along: where it is, and its name in the target."""

    path: str
    name: str


@dataclass(slots=True)
class Description:
    """What a source is, besides its tensors.

    Attributes
    ----------
    kind : str
        ``safetensors``, ``torch``, ``sllm``, ``npz``, ``gguf``, ``dcp``, ``mindspore``, ``live``,
        ``ckptfmt``.
    files : list of SourceFile
        Where the tensors are.
    sidecars : list of Sidecar
        What travels along.
    left_out : list of str
        Files found and not taken, so that nobody misses them later.
    metadata : dict
        The source's own key-value pairs.
    provenance : dict
        What else is known: id, revision, hashes.
    memory_nbytes : int
        What the source holds in memory at most while it is read.
    unsupported : dict of str to str
        Tensors that cannot be stored, and what they are: refused, unless the filters leave them
        out.
    topology : Topology or None
        Whose tensors they are, if ranks have some of their own.
    """

    kind: str
    files: list[SourceFile] = field(default_factory=list)
    sidecars: list[Sidecar] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    memory_nbytes: int = 0
    unsupported: dict[str, str] = field(default_factory=dict)
    topology: Topology | None = None


class Readable(Protocol):
    """Bytes of tensors by position, from several threads at once."""

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor number `tensor` from byte `start` on."""
        ...


class Source(Readable, Protocol):
    """A checkpoint to be converted; ``tensors`` is in the order they should be read in."""

    tensors: list[TensorSpec]
    description: Description

    def close(self) -> None:
        """Release files. Safe to call twice."""
        ...
