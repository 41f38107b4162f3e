"""Of which kind a file or folder of weights is: by what is in it, and by its name."""

from __future__ import annotations

import os
import re

from ckptfmt.errors import SourceError, failing_as
from ckptfmt.sources.folder import (
    NOT_WEIGHTS,
    Weights,
    find_weights,
    is_file_or_gone,
    refuse_broken_link,
    shards,
    the_one,
)
from ckptfmt.sources.limits import refuse_irregular

#: Formats that are a folder, and the file that tells what is in it.
FOLDER_MARKS = {"sllm": "tensor_index.json", "dcp": ".metadata"}
#: Kinds of single files, by name. A ``.ckpt`` may be of two.
FILE_SUFFIXES = {
    "safetensors": (".safetensors",), "torch": (".bin", ".pt", ".pth"), "gguf": (".gguf",),
    "npz": (".npz",),
}  # fmt: skip
KNOWN = (
    "give a folder with weights, or a .safetensors, .bin, .pt, .pth, .ckpt, .gguf or .npz file"
)
#: Of a folder with several kinds of files, these are taken.
_FIRST = (*FILE_SUFFIXES["safetensors"], *FILE_SUFFIXES["torch"])
_RANK = re.compile(r"rank_\d+")


def file_kind(path: str) -> str:
    """The kind of a single weight file: by its first bytes where these tell, else by its name.

    Raises
    ------
    SourceError
        It is of no kind that we read.
    """
    refuse_irregular(path)
    with failing_as(path, "cannot be read"), open(path, "rb") as stream:
        head = stream.read(4)
    if head == b"GGUF":
        return "gguf"
    if path.endswith(".ckpt"):  # of torch's users, too
        return "torch" if head == b"PK\3\4" else "mindspore"
    for kind, suffixes in FILE_SUFFIXES.items():
        if path.endswith(suffixes):
            return kind
    raise SourceError(f"{path}: of no kind that can be converted", hint=KNOWN)


def weights_in(folder: str) -> Weights:
    """Choose the weights of a folder of any kind: safetensors and torch before all others.

    Of a format that is a folder, the one file is that which names the others.

    Raises
    ------
    SourceError
        No weights, several sets of them, or a shard that is missing.
    """
    names = sorted(n for n in os.listdir(folder) if is_file_or_gone(os.path.join(folder, n)))
    first = [n for n in names if n.endswith(_FIRST) and not NOT_WEIGHTS.fullmatch(n)]
    found = _whole_folder(folder, names, first)
    if found is None and not first and not any(n.endswith(".index.json") for n in names):
        found = _other_files(folder, names)
    return found or find_weights(folder)


def _whole_folder(folder: str, names: list[str], first: list[str]) -> Weights | None:
    """The folder as one checkpoint of a format that is a folder; beside other weights, neither."""
    pieces = [n for n in names if n.endswith(".distcp")]
    marks = {"sllm": FOLDER_MARKS["sllm"] in names, "dcp": bool(pieces)}
    kinds = [kind for kind, marked in marks.items() if marked]
    if not kinds:
        return None if first else _one_rank(folder)
    found = [*(FOLDER_MARKS[kind] for kind in kinds), *first]
    if len(found) > 1:
        raise SourceError(
            f"{folder}: holds checkpoints of several formats: {', '.join(found[:6])}",
            hint=f"name one file: ckptfmt convert {folder}/{found[0]} TARGET",
        )
    return Weights(kinds[0], (found[0],), {})


def _one_rank(folder: str) -> Weights | None:
    """The only rank of a model that vLLM saved with ServerlessLLM Store; several are refused."""
    index = FOLDER_MARKS["sllm"]
    ranks = sorted(
        (entry.name for entry in os.scandir(folder) if _RANK.fullmatch(entry.name)
         and os.path.isfile(os.path.join(entry.path, index))),
        key=lambda name: int(name.removeprefix("rank_")),
    )  # fmt: skip
    if not ranks:
        return None
    if ranks != ["rank_0"]:
        raise SourceError(
            f"{folder}: holds {', '.join(ranks[:6])}, each a part of the tensors; how they are "
            f"joined only the model knows",
            hint=f"name one: ckptfmt convert {folder}/{ranks[0]} TARGET",
        )
    return Weights("sllm", (f"rank_0/{index}",), {})


def _other_files(folder: str, names: list[str]) -> Weights | None:
    """The one file of another kind, or all files of a split one."""
    for suffix in (".ckpt", ".gguf", ".npz"):
        files = [n for n in names if n.endswith(suffix)]
        if files:
            chosen = shards(folder, files) if suffix == ".gguf" else [the_one(folder, files, "")]
            for name in chosen:
                refuse_broken_link(os.path.join(folder, name))
            return Weights(file_kind(os.path.join(folder, chosen[0])), tuple(chosen), {})
    return None
