"""What loading a model's weights came to, for the log and for whoever asks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ckptfmt.units import format_nbytes

#: Below vLLM's own logger, whose handler shows it among vLLM's lines.
log = logging.getLogger("vllm.ckptfmt")


@dataclass(slots=True, kw_only=True)
class LoadReport:
    """One loading of a model's weights, on one rank.

    Attributes
    ----------
    strategy : str
        ``by name``, or another way in.
    path : str
        The checkpoint.
    device : str
        Where the bytes were read to.
    rank, tensor_parallel : int
        This rank among those that share the tensors.
    nbytes : int
        Bytes of tensors that the model was given.
    read_nbytes : int
        Bytes read from files: whole blocks of checksums.
    whole_nbytes : int
        Bytes of all tensors of the checkpoint.
    seconds : float
        From the first read to the last tensor taken by the model.
    in_part, in_full : int
        Tensors of which only this rank's part was read, and the others.
    again : list of str
        Those of the first that were read in full after all, because the model wanted more of them.
    """

    strategy: str
    path: str
    device: str = "cpu"
    rank: int = 0
    tensor_parallel: int = 1
    nbytes: int = 0
    read_nbytes: int = 0
    whole_nbytes: int = 0
    seconds: float = 0.0
    in_part: int = 0
    in_full: int = 0
    again: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Log it in one line, and keep it as the latest."""
        rate = self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0
        again = f", {len(self.again)} of them again in full" if self.again else ""
        log.info(
            "ckptfmt: loaded %s of %s in %.3f s, %.2f GB/s, %s, rank %d of %d to %s: "
            "%d tensors in part%s, %d in full, %s read of %s",
            format_nbytes(self.nbytes), self.path, self.seconds, rate, self.strategy,
            self.rank, self.tensor_parallel, self.device, self.in_part, again, self.in_full,
            format_nbytes(self.read_nbytes), format_nbytes(self.whole_nbytes),
        )  # fmt: skip
        _reports.append(self)
        del _reports[:-KEPT]


#: A model and its draft, and some loads before.
KEPT = 16
_reports: list[LoadReport] = []


def load_reports() -> list[LoadReport]:
    """What this process has loaded into models of vLLM, the latest last."""
    return list(_reports)
