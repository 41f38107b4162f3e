"""One thing that is wrong with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What `verify` found wrong.

    Attributes
    ----------
    file : str
        Within the checkpoint's folder; empty for a difference from the source.
    message : str
        What was found, what was expected.
    tensor : str or None
        First name of the tensor concerned.
    offset : int or None
        Byte of the file.
    """

    file: str
    message: str
    tensor: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.tensor and repr(self.tensor)) if part)
        return f"{where}: {self.message}"
