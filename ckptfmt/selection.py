"""Which tensors a person means: exact names, or glob patterns on them."""

from __future__ import annotations

import difflib
import re
from fnmatch import translate
from typing import TYPE_CHECKING

from ckptfmt.errors import TensorNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def is_pattern(text: str) -> bool:
    """Whether the text has a glob character."""
    return any(character in text for character in "*?[")


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for several glob patterns; case matters, ``*`` crosses dots."""
    return re.compile("|".join(map(translate, patterns)))


def select(positions: Mapping[str, int], names: str | Iterable[str] | None) -> dict[str, int]:
    """Choose names.

    Parameters
    ----------
    positions : mapping of str to int
        All names, and which tensor each means.
    names : str, iterable of str, or None
        Names or patterns; None chooses all. A text that is a name is one, whatever it contains.

    Returns
    -------
    dict of str to int
        The chosen ones, in order of position.

    Raises
    ------
    TensorNotFoundError
        A name that does not exist, or a pattern that nothing matches.
    """
    if names is None:
        return dict(positions)
    chosen: set[str] = set()
    for text in [names] if isinstance(names, str) else names:
        if text in positions:
            chosen.add(text)
        elif is_pattern(text):
            expression = matcher([text])
            found = [name for name in positions if expression.match(name)]
            if not found:
                raise TensorNotFoundError(f"no tensor name matches {text!r}")
            chosen.update(found)
        else:
            raise not_found(text, list(positions))
    return {name: position for name, position in positions.items() if name in chosen}


def not_found(name: str, names: Sequence[str]) -> TensorNotFoundError:
    """The error for a name that does not exist, with those that look like it."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    return TensorNotFoundError(
        f"no tensor is named {name!r}",
        hint=f"near matches: {', '.join(near)}" if near else "ckptfmt inspect lists the names",
    )
