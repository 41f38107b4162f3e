"""A small choice from a large matrix: every two values that can meet do so in some row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

Row = dict[str, object]
#: A factor and its value, twice; the factors in their order.
Pair = tuple[tuple[str, object], tuple[str, object]]
#: Whether a row may be, or a part of one may be completed as far as it can tell.
Allowed = Callable[[Mapping[str, object]], bool]


def pairs_of(row: Mapping[str, object]) -> Iterator[Pair]:
    """All pairs of values in a row."""
    return combinations(row.items(), 2)


def completed(part: Row, factors: Mapping[str, Sequence[object]], allowed: Allowed) -> Row | None:
    """The first row that has `part` in it, or None if there is none."""
    if not allowed(part):
        return None
    missing = next((name for name in factors if name not in part), None)
    if missing is None:
        return {name: part[name] for name in factors}
    for value in factors[missing]:
        found = completed({**part, missing: value}, factors, allowed)
        if found is not None:
            return found
    return None


def possible_pairs(factors: Mapping[str, Sequence[object]], allowed: Allowed) -> list[Pair]:
    """All pairs that are in some row."""
    found: list[Pair] = []
    for one, other in combinations(factors, 2):
        for a in factors[one]:
            for b in factors[other]:
                if completed({one: a, other: b}, factors, allowed) is not None:
                    found.append(((one, a), (other, b)))
    return found


def pairwise(factors: Mapping[str, Sequence[object]], allowed: Allowed) -> list[Row]:
    """Rows that have every possible pair in them; the same ones for the same arguments.

    Parameters
    ----------
    factors : mapping of str to sequence
        What varies, and its values.
    allowed : callable
        Whether a row, or a part of one, may be.

    Returns
    -------
    list of dict
        Not the fewest, but few: each begins with a pair that is missing yet and takes, factor by
        factor, the value that brings most of the others.
    """
    missing = dict.fromkeys(possible_pairs(factors, allowed))
    rows = []
    while missing:
        row: Row = dict(next(iter(missing)))
        for name in factors:
            if name not in row:
                row[name] = _best(row, name, factors, allowed, missing)
        row = {name: row[name] for name in factors}
        for pair in pairs_of(row):
            missing.pop(pair, None)
        rows.append(row)
    return rows


def _best(
    row: Row,
    name: str,
    factors: Mapping[str, Sequence[object]],
    allowed: Allowed,
    missing: Mapping[Pair, None],
) -> object:
    """The value of `name` that brings most missing pairs, of those with which the row can end."""
    best: object = None
    most = -1
    for value in factors[name]:
        part = {**row, name: value}
        if completed(part, factors, allowed) is None:
            continue
        ordered = {n: part[n] for n in factors if n in part}
        n_new = sum(pair in missing for pair in pairs_of(ordered))
        if n_new > most:
            best, most = value, n_new
    assert most >= 0, f"{row} was possible, and has no {name}"
    return best
