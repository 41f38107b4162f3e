"""Tensors that are still being read, in the form in which transformers takes them.

The library is given a state dict of these and does with them what it does with slices of
safetensors files: ``tensor[...]`` takes a tensor, ``.to(…)`` brings it to where it belongs. So
names are changed, tensors are joined, tied and quantized by the library's own machinery, whichever
version it is; all it has to wait for is the tensor it asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt.dtypes import DTYPES, import_torch, to_torch

if TYPE_CHECKING:
    from ckptfmt.index import TensorEntry
    from ckptfmt.transformers.reader import Reader


class Pending:
    """One tensor of a checkpoint, before it has been asked for.

    Parameters
    ----------
    reader : Reader
        What reads it.
    name : str
        The checkpoint's name of it.
    entry : TensorEntry
        What is known of it.
    """

    def __init__(self, reader: Reader, name: str, entry: TensorEntry) -> None:
        row = DTYPES[entry.dtype]
        shape = entry.shape
        if row.pack > 1 and shape:
            shape = (*shape[:-1], shape[-1] // row.pack)
        self.reader = reader
        self.name = name
        self.dtype = to_torch(row)
        self._stored = row.name
        self._shape = import_torch().Size(shape)

    @property
    def shape(self) -> Any:
        """As torch has it."""
        return self._shape

    def size(self) -> Any:
        """The same."""
        return self._shape

    def get_shape(self) -> list[int]:
        """The same, as of a slice."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """The dtype it is stored in, as safetensors calls it."""
        return self._stored

    def is_floating_point(self) -> bool:
        """Whether it holds floating numbers."""
        return bool(self.dtype.is_floating_point)

    def __getitem__(self, index: Any) -> Any:
        if self.reader.placed:
            return Taken(self)
        return self.reader.tensor(self.name)[index]

    def to(self, *given: Any, **named: Any) -> Any:
        """Itself, where the reader decides where tensors are; else a tensor as torch gives it."""
        if self.reader.placed:
            return self
        return self.reader.tensor(self.name).to(*given, **named)


class Taken:
    """One that was asked for: what is still to be done with it.

    It stays on the device it was read to. The library, which was told of no devices, says "cpu".
    """

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._dtype: Any = None

    def contiguous(self) -> Taken:
        """It is."""
        return self

    def to(self, device: Any = None, dtype: Any = None, **_: Any) -> Any:
        """Its dtype is noted; with a device comes the tensor, which the reader keeps no longer."""
        torch = import_torch()
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        self._dtype = dtype or self._dtype
        if device is None:
            return self
        return self._pending.reader.take(self._pending.name, self._dtype)
