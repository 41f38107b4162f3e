"""Where tensors come from: one file for each kind of source, one protocol."""

from ckptfmt.sources.base import Source, SourceFile
from ckptfmt.sources.choose import open_source

__all__ = ["Source", "SourceFile", "open_source"]
