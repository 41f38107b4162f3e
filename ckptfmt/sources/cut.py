"""A source cut for ranks, or a checkpoint that was cut, cut again or joined."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptfmt.cutting import Cutting, plan_cut
from ckptfmt.cutting_rules import rules_of
from ckptfmt.errors import OptionError
from ckptfmt.pieces import Whole, wholes
from ckptfmt.sources.stored import StoredSource
from ckptfmt.sources.streamed import StreamedSource
from ckptfmt.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.gathering import Gather
    from ckptfmt.options import ConvertOptions
    from ckptfmt.sources.base import Readable, Source
    from ckptfmt.write_plan import TensorSpec


class CutSource:
    """Pieces of a source's tensors: first those that all ranks share, then each rank's.

    Parameters
    ----------
    source : Source
        What is cut. Closed with this.
    read : Readable
        Gives the bytes that `found` is put together of.
    found : sequence of Whole
        The tensors.
    ranks : int
        How many.
    """

    def __init__(
        self, source: Source, read: Readable, found: Sequence[Whole], ranks: int
    ) -> None:
        self.source = source
        self.read = read
        self.tensors: list[TensorSpec] = []
        self._gathers: list[Gather] = []
        self.cutting: Cutting | None = None
        for whole in found:
            if whole.cut is None:
                self._add(whole, ranks, None)
        for rank in range(ranks):
            for whole in found:
                if whole.cut is not None:
                    self._add(whole, ranks, rank)
        topology = Topology("cut", ranks)
        self.description = replace(source.description, topology=topology)

    def _add(self, whole: Whole, ranks: int, rank: int | None) -> None:
        spec, gathered = whole.of_rank(ranks, rank or 0)
        self.tensors.append(replace(spec, rank=rank, cut=whole.cut))
        self._gathers.append(gathered)

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a piece on."""
        self._gathers[tensor].read_into(self.read.read_into, start, buffer)

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def for_ranks(source: Source, options: ConvertOptions) -> Source:
    """The source as the options want it: as it is, cut for ranks, or joined.

    Raises
    ------
    OptionError
        It cannot be cut so.
    SourceError, MissingDependencyError
        The model's own plan was asked for and cannot be had.
    """
    ranks = options.tensor_parallel
    topology = source.description.topology
    if topology is not None and topology.kind == "state":
        if ranks not in (None, topology.tensor_parallel):
            raise OptionError(
                f"the source holds the state of {topology.tensor_parallel} ranks, which cannot be "
                f"cut for {ranks}"
            )
        return source
    topology = source.files.index.topology if isinstance(source, StoredSource) else None
    if isinstance(source, StoredSource) and topology is not None:
        wanted = topology.tensor_parallel if ranks is None else ranks
        if wanted == 1:
            return source
        again = wholes(source.stored, topology.tensor_parallel)
        if options.tensor_parallel_plan is None:
            return CutSource(source, source.bytes, again, wanted)
        raise OptionError(
            "the source was cut before, and is cut again as it was",
            hint="join it first: --tensor-parallel 1",
        )
    if ranks is None or ranks == 1:
        return source
    if isinstance(source, StreamedSource):
        raise OptionError(
            "tensor_parallel: bytes that are streamed come once, and each tensor is read for all "
            "ranks", hint="without --stream the repository is fetched first",
        )  # fmt: skip
    sidecars = source.description.sidecars
    config = next((s.path for s in sidecars if s.name == "config.json"), None)
    cutting = plan_cut(source.tensors, rules_of(options.tensor_parallel_plan, config), ranks)
    if not cutting.cut:
        reasons = ", ".join(f"{len(names)} {why}" for why, names in cutting.whole.items())
        raise OptionError(
            f"no tensor can be cut for {ranks} ranks: {reasons or 'there are none'}",
            hint="another number of ranks, or rules for these names (docs/tensor_parallel.md)",
        )
    found = [
        Whole(spec, cut, (i,))
        for i, (spec, cut) in enumerate(zip(source.tensors, cutting.cuts, strict=True))
    ]
    made = CutSource(source, source, found, ranks)
    made.cutting = cutting
    return made
