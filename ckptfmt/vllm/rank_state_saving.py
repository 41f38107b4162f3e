"""Saving by rank: what each rank has, as one checkpoint that loads by rank.

Each rank writes a checkpoint of its own beside the target; when all have, the first rank joins
them. Whatever fails on one rank fails on all, and the target then does not exist.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from ckptfmt import layout, saving
from ckptfmt.conversion import Conversion
from ckptfmt.errors import OptionError, TargetExistsError
from ckptfmt.options import ConvertOptions
from ckptfmt.sources.folder import sidecars_below
from ckptfmt.sources.live import live_source
from ckptfmt.target import Target
from ckptfmt.units import format_nbytes, format_rate
from ckptfmt.vllm.rank_group import layout_here, this_group
from ckptfmt.vllm.rank_state_layout import part_path
from ckptfmt.vllm.report import log

if TYPE_CHECKING:
    from ckptfmt.vllm.rank_group import RankGroup

#: What of `SaveOptions` a person may choose: the tensors themselves are stored as they are.
OPTIONS = ("alignment", "partition_size", "workers", "force")


def refuse_saving(target: str, **options: Any) -> None:
    """Say what would be wrong with saving, before hours of work.

    Raises
    ------
    OptionError
        An option is not known, or has a value that it cannot have.
    TargetExistsError
        The target is there, or an unfinished one.
    """
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        raise OptionError(
            f"save_rank_state: {', '.join(map(repr, unknown))}, expected only "
            f"{', '.join(map(repr, OPTIONS))}"
        )
    ConvertOptions.given(**options)
    force = bool(options.get("force"))
    partial = Target(os.path.abspath(target), force=force).partial
    if os.path.isdir(partial) and not force:
        raise TargetExistsError(
            errno.EEXIST, "an unfinished checkpoint is there", partial,
            hint="force=True begins anew",
        )  # fmt: skip


def save_state(model: Any, model_config: Any, target: str, **options: Any) -> int:
    """Store what a model of vLLM has been filled with; to be called on all of its ranks.

    Parameters
    ----------
    model : torch.nn.Module
        Filled, and not yet processed: some platforms leave nothing of the weights afterwards.
    model_config : vllm.config.ModelConfig
        Its configuration; the files beside its weights travel along.
    target : str
        The folder to be made, on a file system that all ranks share.
    **options
        Those of `OPTIONS`, as ``save_dict`` has them.

    Returns
    -------
    int
        Bytes of this rank's tensors.

    Raises
    ------
    TargetExistsError, FileError
        As ``save_dict``.
    OptionError
        An option is not known, or these ranks cannot be told apart by their number.
    CkptError
        Another rank failed.
    """
    began = time.perf_counter()
    group = this_group()
    target = os.path.abspath(target)
    part = part_path(target, group.rank, group.ranks)
    try:
        with group.together("saving a rank state"):
            nbytes = _save_part(model, model_config, target, part, group, options)
        with group.together("joining a rank state"):
            if group.rank == 0:
                _join(model, model_config, target, group, options)
    finally:
        _remove(part)
    seconds = time.perf_counter() - began
    log.info(
        "ckptfmt: saved %s of rank %d of %d to %s in %.3f s, %s",
        format_nbytes(nbytes), group.rank, group.ranks, target, seconds,
        format_rate(nbytes, seconds),
    )  # fmt: skip
    return nbytes


def _save_part(
    model: Any, model_config: Any, target: str, part: str, group: RankGroup,
    options: dict[str, Any],
) -> int:  # fmt: skip
    refuse_saving(target, **options)
    if group.sharing > 1:
        raise OptionError(
            f"save_rank_state: {group.sharing} groups of {group.ranks} ranks run one model, "
            f"expected one group",
            hint="save it without data-parallel experts and without a split context",
        )
    # What a rank that was killed has left is in the way of nobody.
    checked = ConvertOptions.given(force=True, workers=options.get("workers"))
    source = live_source(dict(model.state_dict()))
    try:
        if group.rank == 0:
            source.description.sidecars = _sidecars(str(model_config.model))
        return Conversion(source, "", part, checked).run(None).nbytes
    finally:
        source.close()


def _sidecars(folder: str) -> list[Any]:
    """What makes the target a model that vLLM can be given: configuration, tokenizer."""
    if not os.path.isdir(folder):
        log.warning(
            "ckptfmt: %s is no folder: its configuration and tokenizer do not travel with the rank "
            "state, and loading has to name both", folder,
        )  # fmt: skip
        return []
    own = [n for n in os.listdir(folder) if n in (layout.INDEX_FILE, layout.SUMS_FILE)]
    own += [n for n in os.listdir(folder) if n.startswith("part-") and n.endswith(".ckptfmt")]
    return sidecars_below(folder, own)[0]


def _join(
    model: Any, model_config: Any, target: str, group: RankGroup, options: dict[str, Any]
) -> None:
    parts = [part_path(target, rank, group.ranks) for rank in range(group.ranks)]
    told = {**layout_here(model, model_config, group), "names": str(len(model.state_dict()))}
    try:
        saving.join_ranks(parts, target, layout=told, **options)
    except TargetExistsError:
        raise  # what is there is somebody else's
    except BaseException:
        shutil.rmtree(target.rstrip("/") + ".partial", ignore_errors=True)
        raise


def _remove(part: str) -> None:
    """Parts are of no use to anybody, whether they were joined or not."""
    for path in (part, part + ".partial"):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("ckptfmt: %s cannot be removed: %s", path, error.strerror)
