"""Tensors on a device against the verified bytes of a checkpoint, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import dtypes
from ckptfmt._core import crc32c
from ckptfmt.selftest_report import Difference, DifferentError
from ckptfmt.sources.stored import StoredSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ckptfmt.index import TensorEntry

#: Bytes that are brought back at once.
CHUNK_NBYTES = 64 << 20
#: Bytes shown of a difference.
SHOWN_NBYTES = 16


class Truth:
    """What the tensors of a checkpoint must be, read in pieces and verified by their checksums.

    Parameters
    ----------
    path : str
        The checkpoint.
    """

    def __init__(self, path: str) -> None:
        self._torch = dtypes.import_torch()
        self._source = StoredSource(path)
        self._positions = {spec.names[0]: i for i, spec in enumerate(self._source.tensors)}
        self._buffer = np.empty(CHUNK_NBYTES, np.uint8)

    def compare(
        self,
        entries: Sequence[TensorEntry],
        tensors: Mapping[str, Any],
        done: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Compare all bytes of all names of some entries.

        Parameters
        ----------
        entries : sequence of TensorEntry
            Of the checkpoint.
        tensors : mapping of str to Tensor
            Has all their names.
        done : callable
            Called with bytes compared since its last call.

        Raises
        ------
        DifferentError
            The first difference, and how many tensors have one.
        """
        self._tell((self.difference(entry, tensors) for entry in entries), entries, done)

    def compare_checksums(
        self,
        entries: Sequence[TensorEntry],
        tensors: Mapping[str, Any],
        checksums: Mapping[str, int],
        done: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Compare the checksum of each entry's tensor; where it differs, the bytes.

        Parameters
        ----------
        entries, tensors, done
            As for :meth:`compare`.
        checksums : mapping of str to int
            CRC32C by an entry's first name.
        """
        def difference(entry: TensorEntry) -> Difference | None:
            if self.checksum(tensors[entry.name]) == checksums[entry.name]:
                return None
            return self.difference(entry, tensors)

        self._tell((difference(entry) for entry in entries), entries, done)

    def _tell(
        self,
        differences: Iterable[Difference | None],
        entries: Sequence[TensorEntry],
        done: Callable[[int], None],
    ) -> None:
        first, count = None, 0
        for entry, difference in zip(entries, differences, strict=True):
            if difference is not None:
                first, count = first or difference, count + 1
            done(entry.nbytes)
        if first is not None:
            raise DifferentError(first, count)

    def difference(self, entry: TensorEntry, tensors: Mapping[str, Any]) -> Difference | None:
        """The first difference of one entry's tensor, under any of its names; None if equal."""
        for name in entry.names:
            wanted, found = _kind(entry), _kind_of(tensors[name])
            if wanted != found:
                return Difference(name, 0, wanted, found)
        name = entry.name
        flat = self.flat(tensors[name])
        for other in entry.names[1:]:
            if tensors[other].data_ptr() != tensors[name].data_ptr():
                return Difference(other, 0, f"the memory of {name!r}", "memory of its own")
        position = self._positions[name]
        for start in range(0, entry.nbytes, CHUNK_NBYTES):
            wanted_bytes = self._buffer[: min(CHUNK_NBYTES, entry.nbytes - start)]
            self._source.read_into(position, start, wanted_bytes.data)
            found_bytes = self._back(flat, start)
            if not np.array_equal(wanted_bytes, found_bytes):
                at = int(np.flatnonzero(wanted_bytes != found_bytes)[0])
                shown = slice(at, at + SHOWN_NBYTES)
                return Difference(
                    name, start + at, wanted_bytes[shown].tobytes().hex(),
                    found_bytes[shown].tobytes().hex(),
                )  # fmt: skip
        return None

    def checksum(self, tensor: Any) -> int:
        """CRC32C of a tensor's bytes, brought back in pieces."""
        flat, crc = self.flat(tensor), 0
        for start in range(0, flat.numel(), CHUNK_NBYTES):
            crc = crc32c(self._back(flat, start).data, crc)
        return crc

    def flat(self, tensor: Any) -> Any:
        """A tensor's bytes where they are: a view of one dimension."""
        if tensor.numel() == 0:
            return self._torch.empty(0, dtype=self._torch.uint8, device=tensor.device)
        return tensor.detach().view(-1).view(self._torch.uint8)

    def _back(self, flat: Any, start: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        found: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
        found = flat[start : start + CHUNK_NBYTES].cpu().numpy()
        return found

    def close(self) -> None:
        """Close the files."""
        self._source.close()

    def __enter__(self) -> Truth:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _kind(entry: TensorEntry) -> str:
    return f"{entry.dtype} {list(entry.shape)}"


def _kind_of(tensor: Any) -> str:
    row = dtypes.from_torch(tensor.dtype)
    shape = list(tensor.shape)
    if row.pack > 1 and shape:
        shape[-1] *= row.pack
    return f"{row.name} {shape}"
