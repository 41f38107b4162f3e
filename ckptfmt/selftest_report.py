"""What a self-test found, step by step; it can be pasted into a report as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

#: Outcomes of a step: it did what it should; it did not; the machine does not have what it needs.
OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"

#: Of the JSON, raised when a field changes its meaning.
REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a tensor first differs from what it should be.

    Attributes
    ----------
    tensor : str
        Its name.
    offset : int
        The first byte that differs, from the tensor's begin.
    expected, found : str
        Bytes from there on, in hexadecimal, at most 16; or dtypes and shapes.
    """

    tensor: str
    offset: int
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"tensor {self.tensor!r}, byte {self.offset}: expected {self.expected}, "
            f"found {self.found}"
        )


class DifferentError(Exception):
    """Tensors are not what they should be.

    Attributes
    ----------
    first : Difference
        In the first of them.
    count : int
        How many they are.
    """

    def __init__(self, first: Difference, count: int = 1) -> None:
        others = f"; {count} tensors differ" if count > 1 else ""
        super().__init__(f"{first}{others}")
        self.first = first
        self.count = count


class UnavailableError(Exception):
    """The machine does not have what a step needs; the message says what that is."""


@dataclass(slots=True)
class Step:
    """One step.

    Attributes
    ----------
    name : str
        What was tried.
    outcome : str
        ``"ok"``, ``"failed"`` or ``"unavailable"``.
    message : str
        Figures in words; or why.
    seconds : float
        Time taken.
    details : dict
        Figures for JSON.
    difference : Difference or None
        The first, if that is what failed.
    """

    name: str
    outcome: str = OK
    message: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    difference: Difference | None = None


@dataclass(slots=True)
class Report:
    """What a self-test found.

    Attributes
    ----------
    device : str
        The NPU that was tested.
    host : dict
        Versions and limits of the machine.
    npu : dict
        The device; empty if it could not be brought up.
    checkpoint : dict
        What was loaded.
    steps : list of Step
        In the order they were made.
    interrupted : bool
        Whether Ctrl-C ended it.
    seconds : float
        Time taken.
    """

    device: str
    host: dict[str, Any] = field(default_factory=dict)
    npu: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it came to its end and nothing failed."""
        return not self.interrupted and all(step.outcome != FAILED for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ckptfmt_selftest": REPORT_VERSION, "ok": self.ok, **asdict(self)}


class Listener(Protocol):
    """Who wants to know how far a self-test is. All calls come from the calling thread."""

    def begin(self, name: str) -> None:
        """A step begins."""

    def progress(self, done: int, total: int) -> None:
        """Bytes done and in all, of what the step is at."""

    def end(self, step: Step) -> None:
        """It has ended."""


class Silent:
    """A listener that keeps it to itself."""

    def begin(self, name: str) -> None:
        """Say nothing."""

    def progress(self, done: int, total: int) -> None:
        """Say nothing."""

    def end(self, step: Step) -> None:
        """Say nothing."""
