"""Damage to make: JSON that is nearly an index, and bytes with a few of them changed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import settings

#: Another seed for another run: ``CKPTFMT_FUZZ_SEED=7 pytest tests/fuzz``. Given, it also lets
#: hypothesis choose freely.
SEED = int(os.environ.get("CKPTFMT_FUZZ_SEED", "0"))
fuzz_settings = settings(deadline=None, derandomize=SEED == 0, database=None)


class Raw(str):
    """Text that goes into the JSON as it is."""

    __slots__ = ()


class Pairs(list[list[Any]]):
    """An object as pairs, so that a key may stand twice."""


EDGES = [
    0, 1, 2, 3, 4, 7, 8, 12, 4095, 4096, 4097, 8192, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20,
    (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) + 1, (1 << 62) - 1, 1 << 62, (1 << 62) + 1,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 100, -1, -4096, -(1 << 63),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0.5, 4096.0, "", "a", "4096", "F32", "U8", "F4", "part-00001.ckptfmt",
    "../part-00000.ckptfmt", "\0", "ü", Raw("1e400"), Raw("NaN"), Raw("9" * 4300), Raw("9" * 5000),
    Raw('"\\ud800"'), Raw('"\\u0000"'), Raw("-0"), Raw("00"), Raw("1e3"), Raw("[" * 2000), Raw(""),
    Raw("[" * 300 + "]" * 300), Raw("[]]"), Raw('{"a":1,"a":2}'), [], Pairs(), [0], [0, 4096, 4],
]  # fmt: skip


def to_pairs(value: Any) -> Any:
    """JSON values with objects as pairs."""
    if isinstance(value, dict):
        return Pairs([[key, to_pairs(v)] for key, v in value.items()])
    if isinstance(value, list):
        return [to_pairs(v) for v in value]
    return value


def spelled(value: Any, rng: random.Random) -> str:
    """Write JSON, now and then as another writer would."""
    space = rng.choice(["", "", "", " ", "\n", "\t "])
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        inner = [f"{_key(k, rng)}:{space}{spelled(v, rng)}" for k, v in value]
        return "{" + f",{space}".join(inner) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(spelled(v, rng) for v in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=rng.random() < 0.3)


def _key(key: Any, rng: random.Random) -> str:
    if isinstance(key, str) and key and rng.random() < 0.02:
        return '"' + "".join(f"\\u{ord(c):04x}" for c in key if ord(c) < 0x10000) + '"'
    return json.dumps(key) if isinstance(key, str) else spelled(key, rng)


def mutate_tree(root: Any, rng: random.Random, times: int) -> None:
    """Change something at a random place, several times."""
    for _ in range(times):
        holders = list(_holders(root))
        holder, slot = rng.choice(holders)
        rng.choice(CHANGES)(holder, slot, rng)


def _holders(value: Any) -> Any:
    """Every place that holds a value: a list and a position in it, or a pair and 1."""
    for i, child in enumerate(value):
        if isinstance(value, Pairs):
            yield child, 1
        else:
            yield value, i
        below = child[1] if isinstance(value, Pairs) else child
        if isinstance(below, list):
            yield from _holders(below)


def _replace(holder: Any, slot: int, rng: random.Random) -> None:
    holder[slot] = deepcopy(rng.choice(VALUES)) if rng.random() < 0.4 else rng.choice(EDGES)


def _shift(holder: Any, slot: int, rng: random.Random) -> None:
    value = holder[slot]
    if isinstance(value, int) and not isinstance(value, bool):
        step = rng.choice([1, 4, 16, 4096, 8192, 1 << 20, value, rng.choice(EDGES)])
        holder[slot] = value + rng.choice([-1, 1]) * step
    elif isinstance(value, str) and not isinstance(value, Raw):
        at = rng.randrange(len(value) + 1)
        text = rng.choice(["", "x", "0", "/", "..", "\0", "é"])
        holder[slot] = value[:at] + text + value[at + 1 :]
    else:
        _replace(holder, slot, rng)


def _delete(holder: Any, slot: int, rng: random.Random) -> None:
    value = holder[slot]
    if isinstance(value, list) and value:
        value.pop(rng.randrange(len(value)))
    else:
        _shift(holder, slot, rng)


def _double(holder: Any, slot: int, rng: random.Random) -> None:
    value = holder[slot]
    if isinstance(value, list) and value:
        value.insert(rng.randrange(len(value) + 1), deepcopy(rng.choice(value)))
    else:
        _shift(holder, slot, rng)


def _reorder(holder: Any, slot: int, rng: random.Random) -> None:
    value = holder[slot]
    if isinstance(value, list) and len(value) > 1:
        a, b = rng.sample(range(len(value)), 2)
        value[a], value[b] = value[b], value[a]
    else:
        _shift(holder, slot, rng)


CHANGES: list[Callable[[Any, int, random.Random], None]] = [
    _replace, _shift, _shift, _shift, _delete, _double, _reorder,
]  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, write, cut, double or move some bytes."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if not made:
            made += b"\0"
        at = rng.randrange(len(made))
        end = min(len(made), at + rng.choice([1, 1, 2, 8, 100]))
        kind = rng.randrange(6)
        if kind < 2:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            made[at] = rng.randrange(256)
        elif kind == 3:
            del made[at:end]
        elif kind == 4:
            made[at:at] = made[rng.randrange(len(made)) :][: end - at]
        else:
            made[at:end] = rng.randbytes(end - at)
    return bytes(made)
