"""The next step for a person, by what a runtime returned and which of its functions did."""

from __future__ import annotations

import re

#: Codes, an expression for the call, the hint; the first that fits counts.
Hints = tuple[tuple[tuple[int, ...], str, str], ...]


def find(hints: Hints, code: int, call: str) -> str | None:
    """The hint for a code from a call; None where the runtime's own words have to do."""
    for codes, calls, hint in hints:
        if code in codes and re.search(calls, call):
            return hint
    return None
