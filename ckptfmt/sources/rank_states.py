"""Checkpoints of ranks, one each, as a source of one checkpoint: what all have alike is shared."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptfmt.errors import OptionError
from ckptfmt.sources.base import Description, SourceFile
from ckptfmt.sources.stored import StoredSource
from ckptfmt.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptfmt.write_plan import TensorSpec

#: Compared at a time.
CHUNK_NBYTES = 8 << 20


class RankStates:
    """Tensors of several ordinary checkpoints, each of which is what one rank has.

    Parameters
    ----------
    paths : sequence of str
        The checkpoints, in order of rank.
    layout : mapping of str to str
        What a reader has to have in common with who stored them.

    Raises
    ------
    OptionError
        There is none, or one of them is of ranks itself.
    """

    def __init__(self, paths: Sequence[str], layout: Mapping[str, str]) -> None:
        if not paths:
            raise OptionError("no checkpoints of ranks are given")
        self.tensors: list[TensorSpec] = []
        self._origins: list[tuple[StoredSource, int]] = []
        with ExitStack() as opened:
            ranks = []
            for path in paths:
                ranks.append(StoredSource(path))
                opened.callback(ranks[-1].close)
                if ranks[-1].files.index.topology is not None:
                    raise OptionError(f"{path}: is of ranks itself, expected what one of them has")
            self._add_all(ranks)
            first = ranks[0].description
            self.description = Description(
                "ranks", sidecars=first.sidecars, metadata=first.metadata,
                provenance={"ids": [one.files.index.id for one in ranks]},
                topology=Topology("state", len(ranks), dict(layout)),
            )  # fmt: skip
            for path, one in zip(paths, ranks, strict=True):
                base = os.path.basename(path.rstrip("/"))
                self.description.files += [
                    SourceFile(f"{base}/{file.name}", file.nbytes, file.mtime_ns)
                    for file in one.description.files
                ]
            self._opened = opened.pop_all()

    def _add_all(self, ranks: list[StoredSource]) -> None:
        """First what is the same on all ranks, then what is each one's own."""
        known = [{spec.names: i for i, spec in enumerate(one.tensors)} for one in ranks]
        shared = set()
        for position, spec in enumerate(ranks[0].tensors):
            others = [mine.get(spec.names) for mine in known]
            if all(
                other is not None and _same(ranks[0], position, one, other)
                for one, other in zip(ranks, others, strict=True)
            ):
                shared.add(spec.names)
                self._add(ranks[0], position, None)
        for rank, one in enumerate(ranks):
            for position, spec in enumerate(one.tensors):
                if spec.names not in shared:
                    self._add(one, position, rank)

    def _add(self, one: StoredSource, position: int, rank: int | None) -> None:
        self.tensors.append(replace(one.tensors[position], rank=rank))
        self._origins.append((one, position))

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of a tensor on, verified."""
        one, position = self._origins[tensor]
        one.read_into(position, start, buffer)

    def close(self) -> None:
        """Close the checkpoints."""
        self._opened.close()


def _same(one: StoredSource, mine: int, other: StoredSource, theirs: int) -> bool:
    """Whether two tensors are equal; checksums alone would be so by chance, too."""
    spec = one.tensors[mine]
    if one is other:
        return True
    if spec != other.tensors[theirs] or one.files.crc32c(mine) != other.files.crc32c(theirs):
        return False
    for start in range(0, spec.nbytes, CHUNK_NBYTES):
        nbytes = min(CHUNK_NBYTES, spec.nbytes - start)
        ours, wanted = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))
        one.read_into(mine, start, ours)
        other.read_into(theirs, start, wanted)
        if ours != wanted:
            return False
    return True
