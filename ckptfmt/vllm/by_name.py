"""Tensors under their stored names, as vLLM's models take them; of many this rank's part alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ckptfmt.opening import open_checkpoint
from ckptfmt.vllm.partial import Part, PartialTensor
from ckptfmt.vllm.report import LoadReport
from ckptfmt.vllm.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from ckptfmt.checkpoint import Checkpoint
    from ckptfmt.vllm.settings import Settings


class ByName:
    """The tensors of a checkpoint, read once, in its order.

    It holds the checkpoint's files as long as something that it handed out may still want to read
    from them: a model of vLLM keeps what it was given until a layer is complete.

    Parameters
    ----------
    path : str
        The checkpoint.
    model : torch.nn.Module
        Whose layers tell which part of each tensor is needed.
    settings : Settings
        How to read.
    device : str
        Where to.
    rank, ranks : int
        This rank among those that share the tensors.
    """

    def __init__(
        self, path: str, model: torch.nn.Module, settings: Settings, device: str, rank: int,
        ranks: int,
    ) -> None:  # fmt: skip
        self._began = time.perf_counter()
        self._device = device
        self._how: dict[str, Any] = {"max_nbytes": settings.max_nbytes, "device": device}
        if settings.verify is not None:
            self._how["verify"] = settings.verify
        self._whole = open_checkpoint(path)
        #: This rank's pieces, of a checkpoint that was cut for as many ranks; else the whole.
        self._mine = self._whole
        topology = self._whole.index.topology
        if topology is not None and topology.tensor_parallel == ranks > 1:
            self._mine = open_checkpoint(path, rank=rank, tensor_parallel=ranks)
        #: What is read of the tensors that are not read in full.
        self._parts: dict[str, Part] = {}
        self._from_mine: list[str] = []
        self._from_whole: list[str] = []
        self._foresee(Shares(model) if ranks > 1 else None)
        cut = ", cut for ranks" if self._mine is not self._whole else ""
        self.report = LoadReport(
            strategy=f"by name{cut}", path=path, device=device, rank=rank, tensor_parallel=ranks,
            whole_nbytes=self._whole.nbytes,
        )

    def _foresee(self, shares: Shares | None) -> None:
        """Choose what is read of each tensor, and where it is read from."""
        mine = self._mine
        groups: dict[int, list[str]] = {}
        for name, position in mine.positions.items():
            groups.setdefault(position, []).append(name)
        for names in groups.values():  # tied names are one tensor
            first = names[0]
            shape = self._whole.info(first).shape
            piece = mine.cut_of(first) if mine is not self._whole else None
            wanted = shares.agreed(names, shape) if shares is not None else None
            stored = Part(piece.dim, piece.start, piece.stop) if piece is not None else None
            if stored is not None and (wanted is None or stored.has(wanted)):
                self._parts.update(dict.fromkeys(names, stored))
                self._from_mine += names
            elif wanted is not None and wanted.dim == 0 and not wanted.is_all_of(shape):
                self._parts.update(dict.fromkeys(names, wanted))
                self._from_whole += names
            # Columns are cut across all rows: they are read in full.
            elif mine.info(first).shape == shape:
                self._from_mine += names
            else:
                self._from_whole += names

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._mine is self._whole:
            rows = {name: (part.start, part.stop) for name, part in self._parts.items()}
            yield from self._stream(self._whole, None, rows)
        else:
            yield from self._stream(self._mine, self._from_mine, {})
            rows = {
                name: (part.start, part.stop)
                for name in self._from_whole
                if (part := self._parts.get(name)) is not None
            }
            yield from self._stream(self._whole, self._from_whole, rows)
        self.report.seconds = time.perf_counter() - self._began
        self.report.tell()

    def _stream(
        self, checkpoint: Checkpoint, names: list[str] | None, rows: dict[str, tuple[int, int]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        report, last = self.report, -1
        if names == []:
            return
        for name, tensor in checkpoint.stream(names, rows=rows or None, **self._how):
            position = checkpoint.positions[name]
            if position != last:
                report.nbytes += tensor.nbytes
                report.in_part += name in self._parts
                report.in_full += name not in self._parts
            last = position
            yield name, self._standing_for_whole(name, tensor)
            del tensor
        report.read_nbytes += _read_nbytes(checkpoint)

    def _standing_for_whole(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        part = self._parts.get(name)
        if part is None:
            return tensor
        shape = tuple(self._whole.info(name).shape)
        return PartialTensor(shape, tensor, part, lambda: self._read_whole(name))

    def _read_whole(self, name: str) -> torch.Tensor:
        """All of a tensor, because its part was not what the model wanted."""
        self.report.again.append(name)
        found: torch.Tensor = self._whole.load([name], device=self._device)[name]
        self.report.read_nbytes += _read_nbytes(self._whole)
        return found


def _read_nbytes(checkpoint: Checkpoint) -> int:
    stats = checkpoint.load_stats()
    return stats.read_nbytes if stats is not None else 0
