"""``load_into``: fill tensors that exist already."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptfmt import _core, device_loading, dtypes, engine, loading, npu, streaming
from ckptfmt.accelerator import TOLD
from ckptfmt.devices import Devices
from ckptfmt.errors import DeviceError, LoadMismatchError
from ckptfmt.read_plan import plan_read
from ckptfmt.regrouped import GatheredFiles
from ckptfmt.stats import LoadStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptfmt.checkpoint_files import OpenFiles
    from ckptfmt.engine import Progress
    from ckptfmt.index import TensorEntry
    from ckptfmt.options import LoadOptions

#: Read-ahead for tensors that cannot be read into.
COPY_NBYTES = 256 << 20
#: Of both ends of a copy to a device (CANN up to 8.5 demands it).
COPY_ALIGNMENT = 64
#: Names listed in a message before the rest is counted.
LISTED = 8


@dataclass(slots=True)
class _Target:
    """One tensor to fill: its memory, and whether bytes may be read straight into it."""

    tensor: Any
    address: int
    nbytes: int
    dense: bool
    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"


def _inspect(tensor: Any) -> _Target:
    if isinstance(tensor, np.ndarray):
        dense = tensor.flags.c_contiguous and tensor.flags.writeable
        row = dtypes.from_numpy(tensor.dtype)
        return _Target(tensor, tensor.ctypes.data, tensor.nbytes, dense, tensor.shape, row.name)
    row = dtypes.from_torch(tensor.dtype)
    shape = tuple(tensor.shape)
    if row.pack > 1 and shape:
        shape = (*shape[:-1], shape[-1] * row.pack)
    lazy = tensor.is_conj() or tensor.is_neg()  # its memory holds other values than it shows
    device = str(tensor.device)
    dense = _takes_reads(tensor.device.type) and tensor.is_contiguous() and not lazy
    if dense and tensor.device.type == "npu":
        dense = tensor.data_ptr() % COPY_ALIGNMENT == 0 and npu.is_plain(tensor)
    nbytes = tensor.numel() * tensor.element_size()
    address = tensor.data_ptr() if dense else 0
    return _Target(tensor, address, nbytes, dense, shape, row.name, device)


def _takes_reads(kind: str) -> bool:
    """Whether bytes can be brought straight to such devices; torch copies to all others."""
    if kind == "cuda":  # ROCm's are called so, too
        return dtypes.import_torch().version.cuda is not None
    return kind in ("cpu", "npu")


def _unfillable(tensor: Any) -> str | None:
    """Why this can hold no values; None if it can."""
    if isinstance(tensor, np.ndarray):
        return None if tensor.flags.writeable else "a read-only array"
    if not hasattr(tensor, "untyped_storage"):
        return f"a {type(tensor).__name__}, expected a tensor or an array"
    if tensor.is_meta:
        return "on the meta device: module.to_empty(device='cpu') gives it memory"
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        return "quantized" if tensor.is_quantized else str(tensor.layout)
    if any(step == 0 and n > 1 for step, n in zip(tensor.stride(), tensor.shape, strict=True)):
        return "expanded: several of its elements are one"
    return None


def _tensors_of(target: Any) -> Mapping[str, Any]:
    if hasattr(target, "state_dict"):
        found: Mapping[str, Any] = target.state_dict(keep_vars=True)
        return {name: t for name, t in found.items() if hasattr(t, "data_ptr")}
    if not hasattr(target, "items"):
        raise LoadMismatchError(
            f"cannot load into a {type(target).__name__}, expected a module or a dict of tensors"
        )
    return dict(target.items())


def fill(
    files: OpenFiles,
    target: Any,
    *,
    strict: bool,
    verify: bool,
    options: LoadOptions,
    progress: Progress | None,
) -> tuple[LoadStats, loading.Request]:
    """Check everything, then read. See ``Checkpoint.load_into``."""
    given = _tensors_of(target)
    wrong = {name: why for name, t in given.items() if (why := _unfillable(t)) is not None}
    refused = [f"{n}: {why}" for n, why in wrong.items() if strict or n in files.positions]
    if refused:
        raise LoadMismatchError("; ".join(listed("cannot be filled", refused)))
    targets = {name: _inspect(tensor) for name, tensor in given.items() if name not in wrong}
    chosen = {name: p for name, p in files.positions.items() if name in targets}
    _check(files, targets, chosen, strict)
    chosen = _once_each(files, targets, chosen)
    request = loading.Request(files, chosen, options, verify, "torch", progress)
    in_place = not isinstance(files, GatheredFiles)
    dense = {name: p for name, p in chosen.items() if in_place and targets[name].dense}
    here = {name: p for name, p in dense.items() if targets[name].device == "cpu"}
    stats = _read_dense(request, targets, here)
    if len(here) < len(dense):
        there = {name: p for name, p in dense.items() if name not in here}
        stats = stats.plus(_read_to_devices(request, targets, there))
    others = {name: p for name, p in chosen.items() if name not in dense}
    for framework in ("torch", "numpy"):
        mine = {
            name: p
            for name, p in others.items()
            if isinstance(targets[name].tensor, np.ndarray) == (framework == "numpy")
        }
        if mine:
            stats = stats.plus(_copy_all(request, targets, mine, framework))
    return stats, request


def _copy_all(
    request: loading.Request, targets: dict[str, _Target], mine: dict[str, int], framework: str
) -> LoadStats:
    """Read tensors one after the other and copy them to where they are wanted."""
    total = LoadStats()
    part = replace(request, chosen=mine, framework=framework)
    with closing(streaming.stream_with_stats(part, COPY_NBYTES)) as read:
        for name, tensor, stats in read:
            try:
                _copy(targets[name].tensor, tensor)
            except RuntimeError as error:  # of torch
                said = " ".join(str(error).split())[:TOLD]
                where = targets[name].device
                raise DeviceError(f"{name}: torch cannot copy to {where}: {said}") from error
            if stats is not None:
                total = total.plus(stats)
    return total


def _read_to_devices(
    request: loading.Request, targets: dict[str, _Target], dense: dict[str, int]
) -> LoadStats:
    """Copy straight into the targets' memory on their devices."""
    devices = Devices("")
    extents = request.files.extents
    destinations = []
    for device, names in _batches_by_device(targets, dense):
        base = {dense[name]: targets[name].address for name in names if targets[name].nbytes}
        room = {dense[name]: targets[name].nbytes for name in names}
        mine = extents.of_tensors(sorted(base))
        addresses, rooms = device_loading.spread(extents, mine, base, room)
        keep = [targets[name].tensor for name in names]
        destinations.append(
            device_loading.Destination(devices.device(device), mine, addresses, rooms, keep)
        )
    stats = device_loading.read_to(request, destinations)
    return replace(stats, device_start_seconds=devices.start_seconds)


def _batches_by_device(
    targets: dict[str, _Target], dense: dict[str, int]
) -> list[tuple[str, list[str]]]:
    """Names by device; a tensor wanted under several names is in several batches."""
    batches: dict[tuple[str, int], list[str]] = {}
    seen: dict[tuple[str, int], int] = {}
    for name, position in dense.items():
        device = targets[name].device
        turn = seen[device, position] = seen.get((device, position), -1) + 1
        batches.setdefault((device, turn), []).append(name)
    return [(device, names) for (device, _), names in batches.items()]


def _read_dense(
    request: loading.Request, targets: dict[str, _Target], dense: dict[str, int]
) -> LoadStats:
    """Read straight into the targets' memory; a tensor wanted under several names goes to each."""
    extents = request.files.extents
    ids, addresses = [], []
    first = np.searchsorted(extents.tensor, np.arange(len(request.files.index.tensors) + 1))
    for name, position in sorted(dense.items(), key=lambda item: item[1]):
        address = targets[name].address
        for extent in range(int(first[position]), int(first[position + 1])):
            ids.append(extent)
            addresses.append(address)
            address += int(extents.nbytes[extent])
    chosen = np.array(ids, np.int64)
    plan = plan_read(
        extents, chosen, np.array(addresses, np.int64), request.files.crcs,
        op_nbytes=request.options.op_nbytes, room=extents.nbytes[chosen],
    )  # fmt: skip
    reading = request.reading(plan, [targets[name].tensor for name in dense])
    # Memory that nobody has touched yet comes faster so, and mostly it is a new model's.
    huge = [_core.advise_huge_pages(targets[name].address, targets[name].nbytes) for name in dense]
    return replace(engine.run(reading, request.progress), huge_pages=any(huge))


def _copy(to: Any, tensor: Any) -> None:
    if isinstance(to, np.ndarray):
        to[...] = tensor
        return
    torch = dtypes.import_torch()
    with torch.no_grad():
        to.copy_(tensor)


def _check(
    files: OpenFiles, targets: dict[str, _Target], chosen: dict[str, int], strict: bool
) -> None:
    wrong = [
        f"{name}: {found} here, {wanted} to fill"
        for name, position in chosen.items()
        for found, wanted in [_difference(files.index.tensors[position], targets[name])]
        if found != wanted
    ]
    problems = listed("different", wrong)
    if strict:
        given = [targets[name] for name in chosen]
        filled = {(t.device, t.address) for t in given if t.nbytes}
        missing = [
            name
            for name, t in targets.items()
            if name not in chosen and not (t.dense and (t.device, t.address) in filled)
        ]
        unexpected = [name for name in files.positions if name not in targets]
        problems += listed("missing in the checkpoint", missing)
        problems += listed("not among the tensors to fill", unexpected)
    if problems:
        raise LoadMismatchError(
            f"{files.path}: {'; '.join(problems)}",
            hint=None if wrong else "strict=False fills what both have",
        )


def _difference(entry: TensorEntry, target: _Target) -> tuple[str, str]:
    return f"{entry.dtype} {list(entry.shape)}", f"{target.dtype} {list(target.shape)}"


def listed(what: str, names: list[str]) -> list[str]:
    """One part of a message: how many names, and the first of them."""
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"{len(names)} {what}: {', '.join(map(str, names[:LISTED]))}{more}"]


def _once_each(
    files: OpenFiles, targets: dict[str, _Target], chosen: dict[str, int]
) -> dict[str, int]:
    """Tensors tied in the target and stored apart: read one of them, if they are equal."""
    by_memory: dict[tuple[str, int], str] = {}
    kept: dict[str, int] = {}
    for name, position in chosen.items():
        target = targets[name]
        other = name
        if target.dense and target.nbytes:
            other = by_memory.setdefault((target.device, target.address), name)
        if other == name:
            kept[name] = position
        elif position != chosen[other] and not files.are_equal(position, chosen[other]):
            raise LoadMismatchError(
                f"{files.path}: {other} and {name} share memory in the target, "
                f"but the checkpoint holds different values for them"
            )
    return kept
