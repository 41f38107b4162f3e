"""Elements of a mapped file that are not in row-major order there."""

from __future__ import annotations

import mmap
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Bytes made contiguous at a time.
ROW_NBYTES = 4 << 20


def map_elements(
    fd: int, offset: int, itemsize: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> npt.NDArray[Any]:
    """A view of a file's elements, whatever they mean; `strides` are in bytes.

    The caller has checked that they lie within the file, which must not be cut short meanwhile.
    """
    kind = f"u{itemsize}" if itemsize <= 8 else f"V{itemsize}"
    mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    elements: npt.NDArray[Any] = np.ndarray(shape, kind, mapped, offset, strides)
    return elements


def copy_bytes(array: npt.NDArray[Any], start: int, buffer: memoryview) -> None:
    """Fill `buffer` from byte `start` of the row-major array on, a few rows at a time."""
    if array.ndim == 0:
        array = array.reshape(1)
    end = start + len(buffer)
    inner = array.itemsize * prod(array.shape[1:])
    first, last = start // inner, -(-end // inner)
    if inner > ROW_NBYTES and array.ndim > 1:
        for row in range(first, last):
            low, high = max(start, row * inner), min(end, (row + 1) * inner)
            copy_bytes(array[row], low - row * inner, buffer[low - start : high - start])
        return
    step = max(1, ROW_NBYTES // inner)
    for row in range(first, last, step):
        stop = min(row + step, last)
        low, high = max(start, row * inner), min(end, stop * inner)
        dense = np.ascontiguousarray(array[row:stop]).reshape(-1).view(np.uint8).data
        buffer[low - start : high - start] = dense[low - row * inner : high - row * inner]
