"""What lies in a source folder: which files are weights, which travel along, which are left out."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ckptfmt import layout
from ckptfmt.errors import FileError, SourceError, failing_as
from ckptfmt.sources.base import Sidecar

if TYPE_CHECKING:
    from collections.abc import Collection

#: Weights in some format: never sidecars, whether they are the ones converted or not.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot",
    ".gguf", ".ggml", ".tflite", ".npz", ".npy", ".pkl", ".pickle", ".distcp", ".mlmodel",
)  # fmt: skip
#: torch files beside the weights that are none: state of a training run.
NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*)\.(bin|pt|pth)")
#: Version control and download caches.
SKIPPED_FOLDERS = {".git", ".cache", ".huggingface", "__pycache__", ".ipynb_checkpoints"}

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


class _WeightIndex(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a folder: their kind (``safetensors`` or ``torch``) and names."""

    kind: str
    files: tuple[str, ...]
    expected: dict[str, str]  # tensor name to file, where an index tells


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files are the weights, by their names: an index, or the files themselves."""

    kind: str
    index: str
    files: tuple[str, ...]


def choose_weights(where: str, names: list[str]) -> Choice | None:
    """Choose by names alone: safetensors before torch, an index before a guess.

    Raises
    ------
    SourceError
        Several sets of weights, or a shard that is missing.
    """
    for kind, suffixes, default in (
        ("safetensors", (".safetensors",), "model.safetensors"),
        ("torch", (".bin", ".pt", ".pth"), "pytorch_model.bin"),
    ):
        indexes = [n for n in names if n.endswith(tuple(f"{s}.index.json" for s in suffixes))]
        if indexes:
            return Choice(kind, _the_one(where, indexes, f"{default}.index.json"), ())
        files = [n for n in names if n.endswith(suffixes) and not NOT_WEIGHTS.fullmatch(n)]
        if files:
            chosen = [default] if default in files else _shards(where, files)
            return Choice(kind, "", tuple(chosen))
    return None


def find_weights(folder: str) -> Weights:
    """Choose the weights of a folder, which must be there.

    Raises
    ------
    SourceError
        No weights, several sets of them, or a shard that is missing.
    """
    names = sorted(n for n in os.listdir(folder) if _is_file_or_gone(os.path.join(folder, n)))
    choice = choose_weights(folder, names)
    if choice is None:
        raise _no_weights(folder, names)
    for name in (choice.index, *choice.files):
        _refuse_broken_link(os.path.join(folder, name))
    if choice.index:
        return index_weights(folder, choice.kind, choice.index)
    return Weights(choice.kind, choice.files, {})


def _is_file_or_gone(path: str) -> bool:
    """Whether it is a file, or a link to one that is gone: to be missed, not to be passed over."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _refuse_broken_link(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise SourceError(
            f"{path}: a link to {os.readlink(path)}, which is not there",
            hint="the download is incomplete, or the cache it points to was cleared",
        )


def _the_one(folder: str, names: list[str], default: str) -> str:
    if default in names:
        return default
    if len(names) > 1:
        raise SourceError(
            f"{folder}: several sets of weights: {', '.join(names)}",
            hint="name one: ckptfmt convert FOLDER/FILE.index.json TARGET",
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
        with open(path, "rb") as stream:
            found = msgspec.json.decode(stream.read(), type=_WeightIndex).weight_map
    except OSError as error:
        raise FileError(error.errno or errno.EIO, "cannot be read", path) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{where}: not a weight index: {error}") from error
    if not found:
        raise SourceError(f"{where}: lists no tensor")
    for file in set(found.values()):
        if os.path.basename(file) != file or file in ("", ".", ".."):
            raise SourceError(f"{where}: names {file!r}, which is outside its folder")
    return found


def _shards(folder: str, files: list[str]) -> list[str]:
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


def _no_weights(folder: str, names: list[str]) -> SourceError:
    below = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and any(n.endswith(WEIGHT_SUFFIXES) for n in os.listdir(entry.path))
    )
    hint = f"weights are in {', '.join(below)}: convert these one by one" if below else None
    others = [n for n in names if n.endswith(WEIGHT_SUFFIXES)]
    found = f"; found {', '.join(others)}" if others else ""
    return SourceError(f"{folder}: no safetensors or torch weights in it{found}", hint=hint)


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
            elif name.endswith((*WEIGHT_SUFFIXES, ".index.json")):
                left_out.append(relative)
            elif os.path.isfile(full):
                sidecars.append(Sidecar(full, relative))
            else:
                _refuse_broken_link(full)
                left_out.append(relative)  # a socket, a device

    walk(folder, "")
    return sidecars, left_out


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
