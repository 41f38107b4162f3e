"""What checks are, and what they say: levels, findings, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckptfmt.version import VERSION

if TYPE_CHECKING:
    from ckptfmt.doctor.case import Case

Level = Literal["OK", "WARN", "FAIL", "SKIP"]
Concerns = Literal["ckptfmt", "vllm", "other"]
#: The worst first.
LEVELS: tuple[Level, ...] = ("FAIL", "WARN", "OK", "SKIP")


@dataclass(frozen=True, slots=True)
class Told:
    """What a check says; it may say several things.

    Attributes
    ----------
    level : str
        ``FAIL``, it cannot work; ``WARN``, it may not, or not as fast; ``OK``; ``SKIP``, it was not
        looked at, and `found` says why not.
    found : str
        What was found.
    fix : str
        The command or setting that mends it.
    """

    level: Level
    found: str
    fix: str = ""


def ok(found: str, fix: str = "") -> Told:
    """All is well; `fix` may tell what to know beside."""
    return Told("OK", found, fix)


def warn(found: str, fix: str) -> Told:
    """It may not work, or works worse than it could."""
    return Told("WARN", found, fix)


def fail(found: str, fix: str) -> Told:
    """It cannot work."""
    return Told("FAIL", found, fix)


def skip(why: str) -> Told:
    """Not looked at."""
    return Told("SKIP", why)


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes
    ----------
    id : str
        Stable: programs and documents name it.
    looked_at : str
        What it looks at, in a few words.
    function : callable
        Makes the findings of a case. Its docstring says what it finds wrong.
    concerns : str
        Who cannot work if it fails: ``ckptfmt``, or only ``vllm`` or ``other`` programs.
    kind : str
        Only for devices of this kind; empty for all.
    is_live : bool
        It tries something out, which a tree of files cannot be asked.
    """

    id: str
    looked_at: str
    function: Callable[[Case], Iterator[Told]]
    concerns: Concerns
    kind: str
    is_live: bool

    @property
    def meaning(self) -> str:
        """What it finds wrong, for the documents."""
        return " ".join((self.function.__doc__ or "").split())


def check(
    name: str,
    looked_at: str,
    *,
    concerns: Concerns = "ckptfmt",
    kind: str = "",
    is_live: bool = False,
) -> Callable[[Callable[[Case], Iterator[Told]]], Check]:
    """Make a check of a function."""

    def made(function: Callable[[Case], Iterator[Told]]) -> Check:
        return Check(name, looked_at, function, concerns, kind, is_live)

    return made


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report: what a check said, and which check."""

    check: str
    level: Level
    concerns: Concerns
    looked_at: str
    found: str
    fix: str


@dataclass(slots=True)
class Report:
    """All findings about a machine.

    Attributes
    ----------
    device, device_reason : str
        What loads would go to, and why that was looked at.
    root : str or None
        The tree that was read instead of this machine.
    seconds : float
        For all of it.
    """

    device: str
    device_reason: str
    root: str | None
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Whether nothing fails that ckptfmt itself needs."""
        return not any(f.level == "FAIL" and f.concerns == "ckptfmt" for f in self.findings)

    def count(self, level: Level) -> int:
        """How many findings of a level there are."""
        return sum(f.level == level for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it (docs/doctor.md)."""
        return {
            "ckptfmt": VERSION,
            "device": self.device,
            "device_reason": self.device_reason,
            "root": self.root,
            "ok": self.is_ok,
            "counts": {level: self.count(level) for level in LEVELS},
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }
