"""Byte counts as people write and read them."""

from __future__ import annotations

import re

from ckptfmt.errors import OptionError

_FACTORS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 10**3,
    "m": 1 << 20, "mib": 1 << 20, "mb": 10**6,
    "g": 1 << 30, "gib": 1 << 30, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip
_PATTERN = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-zA-Z]*)\s*")


def parse_nbytes(text: str | int) -> int:
    """Read a byte count: ``4096``, ``"64KiB"``, ``"4GB"`` (10⁹) or ``"4g"`` (2³⁰).

    Raises
    ------
    OptionError
        The text is no count, its unit is unknown, or it is no whole number of bytes.
    """
    if isinstance(text, int):
        return text
    match = _PATTERN.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise OptionError(f"{text!r} is not a byte count", hint="write 4096, 64KiB, 512MB or 4GiB")
    # In integers: as a float, 1.07 GB is no whole number of bytes.
    number: str = match[1]
    whole, _, decimals = number.partition(".")
    scale: int = 10 ** len(decimals)
    value, rest = divmod(int(whole + decimals) * factor, scale)
    if rest:
        raise OptionError(f"{text!r} is not a whole number of bytes")
    return value


def format_nbytes(nbytes: float) -> str:
    """Write a byte count in decimal units, as disks and links are sold: ``6.17 GB``."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(nbytes) >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{int(nbytes)} B"


def format_rate(nbytes: int, seconds: float) -> str:
    """Write bytes per second; a time too short to mean anything gives ``-``."""
    return f"{format_nbytes(nbytes / seconds)}/s" if seconds > 1e-6 else "-"
