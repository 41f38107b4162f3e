"""Loading by rank: each rank reads its own tensors, straight into the model's.

No name is mapped and nothing is cut out: a rank state holds the tensors of a model as vLLM had
filled them. So it fits only the same vLLM, model and degree, which are compared first.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt import index, layout
from ckptfmt.checkpoint import Checkpoint
from ckptfmt.errors import LoadMismatchError, NotFoundError, OptionError, failing_as
from ckptfmt.vllm.rank_group import layout_here, this_group
from ckptfmt.vllm.rank_state_layout import refuse_other
from ckptfmt.vllm.rank_state_reload import is_supported, refill
from ckptfmt.vllm.report import LoadReport, log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptfmt.topology import Topology
    from ckptfmt.vllm.rank_group import RankGroup
    from ckptfmt.vllm.settings import Settings

#: What `Topology.kind` calls tensors that only their engine knows.
KIND = "state"
_WRITE = "model_loader_extra_config={'save_rank_state': TARGET} writes one"
_FULL = "model_loader_extra_config={'path': FOLDER} names full weights to load instead"


def topology_of(path: str) -> Topology | None:
    """Of a checkpoint that has partitions of ranks; None for any other folder."""
    file = os.path.join(path, layout.INDEX_FILE)
    if not os.path.isfile(file):
        return None
    with failing_as(file, "cannot be read"), open(file, "rb") as stream:
        return index.decode(stream.read(), file).topology


def is_rank_state(path: str) -> bool:
    """Whether a folder is what `save_rank_state` writes."""
    topology = topology_of(path)
    return topology is not None and topology.kind == KIND


def has_full_weights(path: str) -> bool:
    """Whether a folder has weights by the names that models are published with."""
    if os.path.isfile(os.path.join(path, layout.INDEX_FILE)):
        return not is_rank_state(path)
    return os.path.isdir(path) and any(n.endswith(".safetensors") for n in os.listdir(path))


@dataclass(frozen=True, slots=True)
class RankState:
    """A rank state that was asked for, and what is there if it does not fit.

    Attributes
    ----------
    path : str
        The rank state.
    full : str or None
        A folder with the full weights of the same model.
    settings : Settings
        How to read.
    """

    path: str
    full: str | None
    settings: Settings

    @classmethod
    def beside(cls, path: str, folders: Iterable[str | None], settings: Settings) -> RankState:
        """With the first of some folders that has full weights."""
        full = next((f for f in folders if f and has_full_weights(f)), None)
        return cls(path, full, settings)

    def load(self, model: Any, model_config: Any) -> bool:
        """Fill a model that has just been built.

        Parameters
        ----------
        model : torch.nn.Module
            As vLLM builds it, before its weights are processed.
        model_config : vllm.config.ModelConfig
            Its configuration.

        Returns
        -------
        bool
            False if it does not fit and there are full weights: a warning says why.

        Raises
        ------
        LoadMismatchError
            It was saved for something else, or names, shapes or dtypes differ, and there are no
            full weights. Nothing was changed.
        ChecksumError, FileError
            Bytes are damaged, or reading failed. The model is partly filled.
        """
        try:
            self._fill(model, model_config)
        except LoadMismatchError as error:
            if self.full is None:
                raise LoadMismatchError(
                    error.message, hint=f"{error.hint}; or {_FULL}" if error.hint else _FULL
                ) from error
            log.warning(
                "ckptfmt: loading %s by name, because %s (%s)", self.full, error, error.hint
            )
            return False
        return True

    def reload(self, model: Any, model_config: Any, device: str) -> Iterator[tuple[str, Any]]:
        """Fill a model that is running, when vLLM asks for the first tensor; there is none to give.

        Raises
        ------
        OptionError
            This vLLM cannot reload by rank.
        LoadMismatchError
            As `load`.
        """
        if not is_supported():
            raise OptionError(
                f"{self.path}: this vLLM reloads by name only, and there are no full weights",
                hint=f"reload_weights(weights_path=FOLDER), or {_FULL}",
            )
        group = this_group()
        # Now, as long as the model is whole.
        checkpoint = _opened(model, model_config, self.path, group)
        how = {"verify": self._verify, "max_nbytes": self.settings.max_nbytes, "device": device}
        return _refilling(model, checkpoint, group, how)

    @property
    def _verify(self) -> bool:
        return self.settings.verify is not False

    def _fill(self, model: Any, model_config: Any) -> None:
        began = time.perf_counter()
        group = this_group()
        with _opened(model, model_config, self.path, group) as checkpoint:
            checkpoint.load_into(model, verify=self._verify)
            stats = checkpoint.load_stats()
            assert stats is not None
            _report(checkpoint, group, began, ", ".join(stats.devices), stats.nbytes)


def _refilling(
    model: Any, checkpoint: Checkpoint, group: RankGroup, how: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    began = time.perf_counter()
    with checkpoint:
        nbytes = refill(model, checkpoint.stream(**how), checkpoint.path)
        _report(checkpoint, group, began, str(how["device"]), nbytes)
    log.info(
        "ckptfmt: reloaded all tensors by rank. vLLM counts those that are loaded by name, and "
        "warns of all: that is no failure"
    )
    yield from ()


def _opened(model: Any, model_config: Any, path: str, group: RankGroup) -> Checkpoint:
    """This rank's view, if it was saved for what runs here."""
    if not os.path.isdir(path):
        raise NotFoundError(errno.ENOENT, "no such rank state", path, hint=_WRITE)
    topology = topology_of(path)
    if topology is None or topology.kind != KIND:
        raise OptionError(f"{path}: not a rank state", hint=_WRITE)
    refuse_other(path, topology.layout, layout_here(model, model_config, group))
    return Checkpoint(path, rank=group.rank, tensor_parallel=group.ranks)


def _report(
    checkpoint: Checkpoint, group: RankGroup, began: float, device: str, nbytes: int
) -> None:
    stats = checkpoint.load_stats()
    mine = [checkpoint.info(name).rank is not None for name in checkpoint.names]
    LoadReport(
        strategy="by rank", path=checkpoint.path, device=device, rank=group.rank,
        tensor_parallel=group.ranks, nbytes=nbytes,
        read_nbytes=stats.read_nbytes if stats is not None else 0,
        whole_nbytes=checkpoint.index.nbytes, seconds=time.perf_counter() - began,
        in_part=sum(mine), in_full=len(mine) - sum(mine),
    ).tell()  # fmt: skip
