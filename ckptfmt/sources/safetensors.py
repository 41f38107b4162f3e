"""safetensors files, single or sharded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptfmt.sources.ranges import RangeSource, Run
from ckptfmt.sources.safetensors_header import read_header, twice

if TYPE_CHECKING:
    from collections.abc import Sequence


class SafetensorsSource(RangeSource):
    """Tensors of one or several safetensors files, in the order they lie in them.

    Parameters
    ----------
    folder : str
        Where the files are.
    files : sequence of str
        Their names below it.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        super().__init__("safetensors")
        seen: dict[str, str] = {}
        try:
            for file in files:
                self._add_file(folder, file, seen)
        except BaseException:
            self.close()
            raise

    def _add_file(self, folder: str, file: str, seen: dict[str, str]) -> None:
        path = os.path.join(folder, file)
        tensors, metadata = read_header(path)
        number = self.open_file(folder, file)
        self.description.metadata.update(metadata)
        for tensor in tensors:
            if tensor.name in seen:
                raise twice(path, tensor.name, seen[tensor.name])
            seen[tensor.name] = file
            run = Run(number, tensor.offset, tensor.nbytes)
            self.add((tensor.name,), tensor.dtype, tensor.shape, [run])
