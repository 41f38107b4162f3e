"""What lies in a source folder: which files are weights, which travel along, which are left out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ckptfmt import layout
from ckptfmt.errors import SourceError, failing_as
from ckptfmt.sources.base import Sidecar
from ckptfmt.sources.limits import read_index

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckptfmt.index import TensorEntry
    from ckptfmt.write_plan import TensorSpec

#: Weights in some format: never sidecars, whether they are the ones converted or not.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot",
    ".gguf", ".ggml", ".tflite", ".npz", ".npy", ".pkl", ".pickle", ".distcp", ".mlmodel",
)  # fmt: skip
#: The same where the name is fixed: ServerlessLLM Store, torch distributed checkpoints.
WEIGHT_NAMES = re.compile(r"tensor\.data_\d+|tensor_index\.json|(__\d+)?\.metadata")
#: torch files beside the weights that are none: state of a training run.
NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*)\.(bin|pt|pth)")
#: Version control and download caches.
SKIPPED_FOLDERS = {".git", ".cache", ".huggingface", "__pycache__", ".ipynb_checkpoints"}

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


class _WeightIndex(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a folder: their kind and names."""

    kind: str
    files: tuple[str, ...]
    expected: dict[str, str]  # tensor name to file, where an index tells


def is_file_or_gone(path: str) -> bool:
    """Whether it is a file, or a link to one that is gone: to be missed, not to be passed over."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def refuse_broken_link(path: str) -> None:
    """A link whose target is gone is named, not passed over."""
    if os.path.islink(path) and not os.path.exists(path):
        raise SourceError(
            f"{path}: a link to {os.readlink(path)}, which is not there",
            hint="the download is incomplete, or the cache it points to was cleared",
        )


def the_one(folder: str, names: list[str], default: str) -> str:
    """The default if it is there, else the only one; several are refused."""
    if default in names:
        return default
    if len(names) > 1:
        raise SourceError(
            f"{folder}: several sets of weights: {', '.join(names)}",
            hint=f"name one: ckptfmt convert FOLDER/{names[0]} TARGET",
        )
    return names[0]


def index_weights(folder: str, kind: str, name: str) -> Weights:
    """The files that a weight index (``….index.json``) names; all must be there."""
    path = os.path.join(folder, name)
    expected = weight_map(path, path)
    files = sorted(set(expected.values()))
    missing = [f for f in files if not os.path.isfile(os.path.join(folder, f))]
    if missing:
        raise SourceError(
            f"{path}: names {missing[0]!r}, which is not there"
            + (f" ({len(missing)} of {len(files)} files are missing)" if len(missing) > 1 else ""),
            hint="the download is incomplete: fetch the missing files",
        )
    return Weights(kind, tuple(files), expected)


def weight_map(path: str, where: str) -> dict[str, str]:
    """Read a weight index: the file of each tensor, all of them beside it."""
    try:
        found = msgspec.json.decode(read_index(path, where), type=_WeightIndex).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{where}: not a weight index: {error}") from error
    if not found:
        raise SourceError(f"{where}: lists no tensor")
    for file in set(found.values()):
        if os.path.basename(file) != file or file in ("", ".", ".."):
            raise SourceError(f"{where}: names {file!r}, which is outside its folder")
    return found


def refuse_missing(
    where: str, tensors: Iterable[TensorSpec | TensorEntry], expected: dict[str, str]
) -> None:
    """Refuse files that lack a tensor which the weight index promises."""
    names = {name for spec in tensors for name in spec.names}
    for name, file in expected.items():
        if name not in names:
            raise SourceError(
                f"{where}: the index promises tensor {name!r} in {file}, which lacks it",
                hint="the files are of different versions: fetch them again",
            )


def shards(folder: str, files: list[str]) -> list[str]:
    """Files without an index: one, or all of ``…-00001-of-0000N``."""
    if len(files) == 1 and not _SHARD.fullmatch(files[0]):
        return files
    matches = [_SHARD.fullmatch(f) for f in files]
    sets = {(m["stem"], m["count"], m["suffix"]) for m in matches if m}
    if len(sets) != 1 or not all(matches):
        raise SourceError(
            f"{folder}: cannot tell which files belong together: {', '.join(files[:6])}",
            hint="name one file, or the .index.json that lists them",
        )
    ((stem, count, suffix),) = sets
    wanted = [f"{stem}-{i:05d}-of-{count}{suffix}" for i in range(1, int(count) + 1)]
    missing = [f for f in wanted if f not in files]
    if missing:
        raise SourceError(
            f"{folder}: {missing[0]} is not there ({len(missing)} of {len(wanted)} files missing)",
            hint="the download is incomplete: fetch the missing files",
        )
    return wanted


def no_weights(folder: str, names: list[str]) -> SourceError:
    """What to say of such a folder: where weights are, and what others are in it."""
    below = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and any(n.endswith(WEIGHT_SUFFIXES) for n in os.listdir(entry.path))
    )
    hint = f"weights are in {', '.join(below)}: convert these one by one" if below else None
    others = [n for n in names if n.endswith(WEIGHT_SUFFIXES)]
    found = f"; found {', '.join(others)}" if others else ""
    return SourceError(f"{folder}: no weights in it that can be read{found}", hint=hint)


def sidecars_below(folder: str, taken: Collection[str]) -> tuple[list[Sidecar], list[str]]:
    """Everything beside the weights.

    Parameters
    ----------
    folder : str
        The source.
    taken : collection of str
        Weight files that are converted.

    Returns
    -------
    sidecars : list of Sidecar
        Regular files in order of name; links are followed.
    left_out : list of str
        What does not travel: other weights, weight indexes, checkpoints, folders met before under
        another name, and what is no regular file.

    Raises
    ------
    SourceError
        A link that leads nowhere.
    """
    sidecars: list[Sidecar] = []
    left_out: list[str] = []
    visited: set[tuple[int, int]] = set()

    def walk(path: str, prefix: str) -> None:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in visited:
            left_out.append(prefix.rstrip("/"))  # a link back up, or two links to one folder
            return
        visited.add((status.st_dev, status.st_ino))
        with failing_as(path, "cannot be read"):
            names = sorted(os.listdir(path))
        for name in names:
            full, relative = os.path.join(path, name), prefix + name
            if os.path.isdir(full):
                if is_checkpoint(full):
                    left_out.append(relative)
                elif name not in SKIPPED_FOLDERS:
                    walk(full, relative + "/")
            elif relative in taken:
                continue
            elif is_weights(name):
                left_out.append(relative)
            elif os.path.isfile(full):
                sidecars.append(Sidecar(full, relative))
            else:
                refuse_broken_link(full)
                left_out.append(relative)  # a socket, a device

    walk(folder, "")
    return sidecars, left_out


def is_weights(name: str) -> bool:
    """Whether a file without its folder is named as weights or their index are, in any format."""
    return name.endswith((*WEIGHT_SUFFIXES, ".index.json")) or bool(WEIGHT_NAMES.fullmatch(name))


def is_checkpoint(path: str) -> bool:
    """Whether a folder is a checkpoint of ours, finished or not."""
    unfinished = os.path.join(path, layout.STATE_FILE)
    return os.path.exists(os.path.join(path, layout.INDEX_FILE)) or (
        path.endswith(".partial") and os.path.exists(unfinished)
    )


def refuse_collisions(sidecars: list[Sidecar], partitions: int) -> None:
    """A sidecar may not have a name of ours."""
    ours = {layout.INDEX_FILE, layout.SUMS_FILE, layout.STATE_FILE, layout.STATE_FILE + "~"}
    ours.update(map(layout.partition_file, range(partitions)))
    for sidecar in sidecars:
        name = sidecar.name.partition("/")[0]
        if name in ours or (name.startswith("part-") and name.endswith(".ckptfmt")):
            raise SourceError(
                f"{sidecar.path}: has a name that belongs to the checkpoint itself",
                hint="rename it, or leave it out of the source folder",
            )
