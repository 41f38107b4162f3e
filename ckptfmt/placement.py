"""Which tensor goes to which device: all to one, by a map of module names, or by free memory.

Pure: whoever calls asks the runtime which devices there are and how much memory they have free.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import OptionError, OutOfMemoryError
from ckptfmt.selection import matcher
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptfmt.index import Index

ACCEPTED = "'cpu', 'npu', 'npu:N', 'cuda' or 'cuda:N'"
_DEVICE = re.compile(r"(npu|cuda)(?::(0|[1-9][0-9]{0,3}))?")

#: What models call the list of their layers. A module whose name ends in one of these and a number,
#: such as ``model.layers.7``, is never split by ``"auto"``: its parts exchange activations.
LAYER_LISTS = (
    "layers", "layer", "h", "blocks", "block", "resblocks", "transformer_blocks",
    "single_transformer_blocks",
)  # fmt: skip
#: The outermost layer of a module's name: the list, and the number in it.
_LAYER = re.compile(
    rf"((?:.*?\.)??(?:{'|'.join(LAYER_LISTS)}))\.([0-9]{{1,9}})(?=\.|\Z)", re.DOTALL
)

#: ``"auto"`` leaves this share of each device's free memory, for what the allocator rounds up and
#: for the model's first steps.
RESERVE_SHARE = 16
#: What a tensor takes on a device, at most: as in the arenas of ``device_plan``.
_ROUNDING = 4096


def normalize(device: object) -> str:
    """Spell a device one way: ``cpu``, ``npu:0``, ``cuda:1``.

    Parameters
    ----------
    device : str or torch.device
        A kind alone means number 0.

    Raises
    ------
    OptionError
        It is none of those that tensors can be loaded to.
    """
    text = str(device)
    if text == "cpu":
        return text
    match = _DEVICE.fullmatch(text)
    if match is None:
        hint = f"a number alone names no kind of device: 'npu:{text}'" if text.isdecimal() else None
        raise OptionError(f"device is {text!r}, expected {ACCEPTED}", hint=hint)
    return f"{match[1]}:{match[2] or 0}"


def place(
    index: Index,
    chosen: Mapping[str, int],
    device: str | Mapping[str, str],
    *,
    free: Mapping[str, int] | None = None,
    no_split: str | Sequence[str] = (),
) -> dict[int, str]:
    """Choose a device for each tensor.

    Parameters
    ----------
    index : Index
        Of the checkpoint.
    chosen : mapping of str to int
        The names to load, and the position of the tensor that each means.
    device : str or mapping of str to str
        One device; or a map from names of modules to devices, as accelerate's ``device_map``; or
        ``"auto"``.

        A key of a map means the module of that name with all below it, or the tensor of that name:
        ``"model.layers.1"`` has nothing to do with ``model.layers.10``. The longest key that fits
        decides; ``""`` is the rest. Tied names share one tensor and so one device. If only some of
        them have a key of their own, the others follow those and not the rest. Keys that send them
        to different devices are refused, where accelerate warns.

        ``"auto"`` fills the devices in order of their numbers with the modules in order of the
        file, the layers of one list in order of theirs, each device in proportion to its free
        memory. Layers (`LAYER_LISTS`) and modules that match `no_split` stay whole, others are
        split down to the modules that hold tensors. Modules with tied names go to the same
        device. If they do not fit in this order, the largest ones are placed first.
    free : mapping of str to int, optional
        For ``"auto"``: the devices there are, and the bytes free on each. Of a single one, nothing
        is asked: it gets everything.
    no_split : str or sequence of str
        For ``"auto"``: glob patterns on names of modules, such as ``"model.vision.*"``.

    Returns
    -------
    dict of int to str
        For each chosen position its device, ascending.

    Raises
    ------
    OptionError
        No such device; a key or pattern that nothing matches; a tensor that no key matches.
    OutOfMemoryError
        ``"auto"``: the devices have too little free memory.
    """
    if not isinstance(device, str) and hasattr(device, "items"):
        found = _by_map(index, chosen, device)
    elif device == "auto":
        patterns = [no_split] if isinstance(no_split, str) else no_split
        found = _by_memory(index, chosen, free or {}, patterns)
    else:
        found = dict.fromkeys(chosen.values(), normalize(device))
    return dict(sorted(found.items()))


def _prefixes(name: str) -> Iterator[str]:
    """The modules that a name is in, the outermost first, and the name itself."""
    at = name.find(".")
    while at >= 0:
        yield name[:at]
        at = name.find(".", at + 1)
    yield name


# ---- by a map ----


def _by_map(index: Index, chosen: Mapping[str, int], given: Mapping[Any, Any]) -> dict[int, str]:
    devices: dict[str, str] = {}
    for key, device in given.items():
        if not isinstance(key, str):
            raise OptionError(f"device has the key {key!r}, expected the name of a module")
        devices[key] = normalize(device)
    _refuse_unused(index, devices)
    keys: dict[int, tuple[str, str]] = {}  # by position: a name, and the key that decides for it
    for name, position in sorted(chosen.items(), key=lambda item: item[1]):
        fitting = [prefix for prefix in _prefixes(name) if prefix in devices]
        if not fitting and "" not in devices:
            raise OptionError(
                f"device has no key for tensor {name!r}",
                hint="the key '' stands for the rest: add '': 'npu:0'",
            )
        key = fitting[-1] if fitting else ""
        other, others = keys.setdefault(position, (name, key))
        if not others:  # the rest is no wish
            keys[position] = (name, key)
        elif key and devices[key] != devices[others]:
            raise OptionError(
                f"{other!r} and {name!r} are one tensor (tied), but device has "
                f"{others!r}: {devices[others]!r} and {key!r}: {devices[key]!r}",
                hint="give both the same device, or load one of the names alone",
            )
    return {position: devices[key] for position, (_, key) in keys.items()}


def _refuse_unused(index: Index, devices: Mapping[str, str]) -> None:
    """A key that fits no tensor of the checkpoint, chosen or not, is probably misspelled."""
    unused = set(devices) - {""}
    for tensor in index.tensors:
        for name in tensor.names:
            unused.difference_update(_prefixes(name))
    key = next((key for key in devices if key in unused), None)
    if key is None:
        return
    names = {p for tensor in index.tensors for name in tensor.names for p in _prefixes(name)}
    near = difflib.get_close_matches(key, sorted(names), n=3, cutoff=0.7)
    raise OptionError(
        f"device has the key {key!r}, but no tensor is in a module of that name",
        hint=f"near matches: {', '.join(near)}" if near else "ckptfmt inspect lists the names",
    )


# ---- by free memory ----


@dataclass(slots=True)
class _Unit:
    """Tensors that stay together."""

    name: str
    nbytes: int = 0
    positions: list[int] = field(default_factory=list)


def _by_memory(
    index: Index, chosen: Mapping[str, int], free: Mapping[str, int], no_split: Sequence[str]
) -> dict[int, str]:
    bytes_free = {normalize(name): nbytes for name, nbytes in free.items()}
    names = sorted(bytes_free, key=rank)
    if not names:
        raise OptionError("device is 'auto', but there are no devices to choose from")
    units = _in_order(_units(index, chosen, no_split))
    if len(names) == 1:
        return dict.fromkeys(chosen.values(), names[0])
    room = [max(bytes_free[n] - bytes_free[n] // RESERVE_SHARE, 0) for n in names]
    numbers = _fill(units, room)
    if numbers is None:
        numbers = _fill_largest_first(units, room, names, bytes_free)
    return {
        position: names[number]
        for unit, number in zip(units, numbers, strict=True)
        for position in unit.positions
    }


def rank(device: str) -> tuple[bool, str, int]:
    """What devices are sorted by: their kind and number, the CPU last."""
    kind, _, number = device.partition(":")
    return kind == "cpu", kind, int(number or 0)


def _units(index: Index, chosen: Mapping[str, int], no_split: Sequence[str]) -> list[_Unit]:
    """What stays together, in file order."""
    whole = _no_split(index, no_split)
    key_of: dict[str, str] = {}  # by module
    joined: dict[str, str] = {}  # to another key that came before

    def root(key: str) -> str:
        passed = []
        while key in joined:
            passed.append(key)
            key = joined[key]
        joined.update(dict.fromkeys(passed, key))
        return key

    first: dict[int, str] = {}
    order: dict[str, int] = {}
    for name, position in sorted(chosen.items(), key=lambda item: item[1]):
        module, dot, _ = name.rpartition(".")
        if not dot:
            module = name  # it belongs to the model itself, which nobody wants in one piece
        if module not in key_of:
            key_of[module] = _whole_part(module, whole)
        key = key_of[module]
        order.setdefault(key, len(order))
        tied = {root(first.setdefault(position, key)), root(key)}
        if len(tied) > 1:
            earlier, later = sorted(tied, key=order.__getitem__)
            joined[later] = earlier
    units = {key: _Unit(key) for key in order if key not in joined}
    for position, key in first.items():
        unit = units[root(key)]
        unit.positions.append(position)
        unit.nbytes += -(-index.tensors[position].nbytes // _ROUNDING) * _ROUNDING
    return list(units.values())


def _no_split(index: Index, patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One expression for all patterns, each of which has to match a module."""
    if not patterns:
        return None
    names = (name for tensor in index.tensors for name in tensor.names)
    modules = {p for name in names for p in _prefixes(name.rpartition(".")[0])}
    for pattern in patterns:
        expression = matcher([pattern])
        if not any(expression.match(module) for module in modules):
            raise OptionError(
                f"no_split has {pattern!r}, which matches no module",
                hint="it takes names of modules in the checkpoint, such as 'model.layers.*', "
                "not of classes",
            )
    return matcher(patterns)


def _whole_part(module: str, whole: re.Pattern[str] | None) -> str:
    """The outermost part of a module's name that is not to be split; all of it if none is."""
    layer = _LAYER.match(module)
    found = layer[0] if layer else module
    if whole is not None:
        found = next((p for p in _prefixes(found) if whole.match(p)), found)
    return found


def _in_order(units: list[_Unit]) -> list[_Unit]:
    """File order, but the layers of a list by their numbers: many files have 10 before 2."""
    lists: dict[str, list[int]] = {}
    numbers = {}
    for i, unit in enumerate(units):
        match = _LAYER.fullmatch(unit.name)
        if match:
            lists.setdefault(match[1], []).append(i)
            numbers[i] = int(match[2])
    ordered = list(units)
    for slots in lists.values():
        for slot, i in zip(slots, sorted(slots, key=lambda i: numbers[i]), strict=True):
            ordered[slot] = units[i]
    return ordered


def _fill(units: Sequence[_Unit], room: Sequence[int]) -> list[int] | None:
    """Cut the units' order into one piece for each device; None if they do not fit so.

    A piece ends as near to the device's share as it can with what comes after still fitting.
    """
    ends = list(accumulate((unit.nbytes for unit in units), initial=0))
    # The fewest units that can be left for the devices before each one.
    least = [0] * len(room) + [len(units)]
    for number in reversed(range(len(room))):
        least[number] = bisect_left(ends, ends[least[number + 1]] - room[number])
    if least[0]:
        return None
    numbers: list[int] = []
    shares = list(accumulate(room))
    for number, nbytes in enumerate(room):
        start = len(numbers)
        most = bisect_right(ends, ends[start] + nbytes) - 1
        share = ends[-1] * shares[number] // max(shares[-1], 1)
        below = bisect_right(ends, share) - 1
        above = min(below + 1, len(units))
        wanted = above if ends[above] - share < share - ends[below] else below
        stop = min(max(wanted, start, least[number + 1]), most)
        numbers += [number] * (stop - start)
    return numbers


def _fill_largest_first(
    units: Sequence[_Unit], room: Sequence[int], names: Sequence[str], free: Mapping[str, int]
) -> list[int]:
    """Each unit to the first device that still has room for it."""
    filled = [0] * len(room)
    numbers = [0] * len(units)
    for i in sorted(range(len(units)), key=lambda i: -units[i].nbytes):
        nbytes = units[i].nbytes
        fitting = (n for n, limit in enumerate(room) if filled[n] + nbytes <= limit)
        number = next(fitting, -1)
        if number < 0:
            devices = ", ".join(
                f"{name} takes {format_nbytes(used)} of {format_nbytes(free[name])} free"
                for name, used in zip(names, filled, strict=True)
            )
            raise OutOfMemoryError(
                f"the tensors need {format_nbytes(sum(unit.nbytes for unit in units))}: {devices}, "
                f"and {units[i].name!r} ({format_nbytes(nbytes)}) fits nowhere",
                hint=f"1/{RESERVE_SHARE} of the free memory is left; load by names, use more "
                "devices, end what else uses them, or convert with --dtype bf16 or fp16",
            )
        filled[number] += nbytes
        numbers[i] = number
    return numbers
