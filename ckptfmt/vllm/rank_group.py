"""This process among the ranks that hold one model, and what runs here.

A rank counts through pipeline stages, and in each through the slices of its tensors.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
from ckptfmt.errors import CkptError
from ckptfmt.vllm.rank_state_layout import config_digest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class RankGroup:
    """The ranks of one model.

    Attributes
    ----------
    rank, ranks : int
        This one, of how many.
    tensor_parallel, pipeline_parallel : int
        How they are arranged.
    sharing : int
        How many such groups run in one world, each with parts that the others lack: data-parallel
        ranks of a mixture of experts, ranks of a split context.
    group : ProcessGroup or None
        To exchange texts by; None for one rank alone.
    """

    rank: int
    ranks: int
    tensor_parallel: int
    pipeline_parallel: int
    sharing: int
    group: Any = None

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """Do something on all ranks: if it fails on one, it fails on all, and none waits forever.

        Raises
        ------
        CkptError
            It went well here, and failed on another rank, whose message this has.
        """
        try:
            yield
        except BaseException as error:  # whatever it is, the others have to hear of it
            self._told(f"{type(error).__name__}: {error}")
            raise
        told = self._told("")
        wrong = [(rank, text) for rank, text in enumerate(told) if text]
        if wrong:
            rank, text = wrong[0]
            raise CkptError(f"{doing} failed on rank {rank} of {len(told)}: {text}")

    def _told(self, text: str) -> list[str]:
        """What every rank has to say."""
        if self.group is None:
            return [text]
        distributed: Any = dtypes.import_torch().distributed
        # All of the world, of which these may be a part.
        told: list[str] = [""] * distributed.get_world_size(self.group)
        distributed.all_gather_object(told, text, group=self.group)
        return told


def this_group() -> RankGroup:
    """The group that vLLM has put this process into."""
    from vllm.distributed import parallel_state  # noqa: PLC0415

    tensor, pipeline = parallel_state.get_tp_group(), parallel_state.get_pp_group()
    world = parallel_state.get_world_group()
    ranks = tensor.world_size * pipeline.world_size
    return RankGroup(
        rank=pipeline.rank_in_group * tensor.world_size + tensor.rank_in_group,
        ranks=ranks,
        tensor_parallel=tensor.world_size,
        pipeline_parallel=pipeline.world_size,
        sharing=world.world_size // ranks,
        group=world.cpu_group,
    )


def layout_here(model: Any, model_config: Any, group: RankGroup) -> dict[str, str]:
    """What a rank state of this model has to have been saved for; see `FIELDS`."""
    from vllm import __version__  # noqa: PLC0415

    return {
        "engine": "vllm",
        "version": str(__version__).partition("+")[0],
        "platform": _platform(),
        "architecture": type(model).__name__,
        "config": config_digest(model_config.hf_config.to_dict()),
        "dtype": str(model_config.dtype).removeprefix("torch."),
        "quantization": str(model_config.quantization or "none"),
        "tensor_parallel": str(group.tensor_parallel),
        "pipeline_parallel": str(group.pipeline_parallel),
        "data_parallel": str(group.sharing),
        "experts": _experts(),
    }


def _platform() -> str:
    """The kind of device, and the package that brings it if it is not vLLM itself."""
    from vllm.platforms import current_platform  # noqa: PLC0415

    kind = str(current_platform.device_type)
    package = type(current_platform).__module__.partition(".")[0]
    if package == "vllm":
        return kind
    try:
        return f"{kind} ({package} {version(package)})"
    except PackageNotFoundError:
        return f"{kind} ({package})"


def _experts() -> str:
    """How experts are spread: slices of each on every rank, or whole ones on some."""
    from vllm.config import get_current_vllm_config  # noqa: PLC0415

    parallel = get_current_vllm_config().parallel_config
    if not parallel.enable_expert_parallel:
        return "sliced"
    redundant = getattr(getattr(parallel, "eplb_config", None), "num_redundant_experts", 0)
    placed = getattr(parallel, "expert_placement_strategy", "linear")
    return f"whole, {placed}, {redundant} redundant"
