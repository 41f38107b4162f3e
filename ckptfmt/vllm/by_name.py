"""Tensors under their stored names, as vLLM's models take them; of many this rank's rows alone."""

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
        Whose layers tell which rows are needed.
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
        self._checkpoint = open_checkpoint(path)
        self._settings = settings
        self._device = device
        self._rows = self._foresee(Shares(model)) if ranks > 1 else {}
        self.report = LoadReport(
            strategy="by name", path=path, device=device, rank=rank, tensor_parallel=ranks,
            whole_nbytes=self._checkpoint.nbytes,
        )

    def _foresee(self, shares: Shares) -> dict[str, tuple[int, int]]:
        """Rows by name, of the tensors that are not needed whole."""
        rows = {}
        for entry in self._checkpoint.index.tensors:
            found = {share for name in entry.names if (share := shares.rows(name)) is not None}
            # Tied names are one tensor: what all of them that the model knows agree on.
            if len(found) == 1:
                (share,) = found
                if entry.shape and entry.shape[0] == share.rows:
                    rows.update(dict.fromkeys(entry.names, (share.start, share.stop)))
        return rows

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        report, last = self.report, -1
        for name, tensor in self._stream(self._checkpoint, self._rows):
            position = self._checkpoint.positions[name]
            if position != last:
                report.nbytes += tensor.nbytes
                report.in_part += name in self._rows
                report.in_full += name not in self._rows
            last = position
            yield name, self._standing_for_whole(name, tensor)
            del tensor
        report.read_nbytes += self._read(self._checkpoint)
        report.seconds = time.perf_counter() - self._began
        report.tell()

    def _stream(
        self, checkpoint: Checkpoint, rows: dict[str, tuple[int, int]]
    ) -> Iterator[tuple[str, Any]]:
        how: dict[str, Any] = {}
        if self._settings.verify is not None:
            how["verify"] = self._settings.verify
        if rows:
            how["rows"] = rows
        return checkpoint.stream(
            max_nbytes=self._settings.max_nbytes, device=self._device, **how
        )

    def _standing_for_whole(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in self._rows:
            return tensor
        shape = tuple(self._checkpoint.info(name).shape)
        return PartialTensor(
            shape, tensor, Part(0, *self._rows[name]), lambda: self._whole(name)
        )

    def _whole(self, name: str) -> torch.Tensor:
        """All of a tensor, because its part was not what the model wanted."""
        self.report.again.append(name)
        found: torch.Tensor = self._checkpoint.load([name], device=self._device)[name]
        self.report.read_nbytes += self._read(self._checkpoint)
        return found

    @staticmethod
    def _read(checkpoint: Checkpoint) -> int:
        stats = checkpoint.load_stats()
        return stats.read_nbytes if stats is not None else 0
