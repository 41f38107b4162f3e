"""What of a source is converted: names by the filters, dtypes by the cast."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptfmt import dtypes
from ckptfmt.errors import SourceError
from ckptfmt.selection import matcher
from ckptfmt.sources.limits import refuse_unsupported

if TYPE_CHECKING:
    from ckptfmt.options import ConvertOptions
    from ckptfmt.sources import Source
    from ckptfmt.write_plan import TensorSpec


class Chosen:
    """A source with some of its tensors left out and some planned in another dtype."""

    def __init__(self, source: Source, options: ConvertOptions) -> None:
        self.source = source
        self.positions: list[int] = []
        self.stored: list[str] = []
        self.tensors: list[TensorSpec] = []
        self.dropped: list[str] = []
        row = dtypes.cast_target(options.dtype)
        include = matcher(options.include) if options.include else None
        exclude = matcher(options.exclude) if options.exclude else None

        def is_wanted(name: str) -> bool:
            return (include is None or include.match(name) is not None) and (
                exclude is None or exclude.match(name) is None
            )

        self.dropped += refuse_unsupported(source.description, is_wanted)
        for position, spec in enumerate(source.tensors):
            names = tuple(filter(is_wanted, spec.names))
            self.dropped += [name for name in spec.names if name not in names]
            if not names:
                continue
            cast = row is not None and dtypes.DTYPES[spec.dtype].is_float
            self.positions.append(position)
            self.stored.append(spec.dtype)
            dtype = row.name if row and cast else spec.dtype
            self.tensors.append(replace(spec, names=names, dtype=dtype))
        if (source.tensors or self.dropped) and not self.tensors:
            raise SourceError("the filters leave no tensor", hint="see --include and --exclude")
        if self.stored != [spec.dtype for spec in self.tensors]:
            dtypes.import_torch()  # say so now, not after an hour

    def read_into(self, tensor: int, start: int, buffer: memoryview) -> None:
        """As the source does, by the positions of what was chosen."""
        self.source.read_into(self.positions[tensor], start, buffer)
