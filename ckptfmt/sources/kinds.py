"""Of which kind a file or folder of weights is: by what is in it, and by its name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ckptfmt.errors import SourceError, failing_as
from ckptfmt.sources.folder import (
    NOT_WEIGHTS,
    Weights,
    index_weights,
    is_file_or_gone,
    no_weights,
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
#: Of a folder with several kinds of files, these are taken, in this order.
_DEFAULTS = {"safetensors": "model.safetensors", "torch": "pytorch_model.bin"}
_RANK = re.compile(r"rank_\d+")
#: The files of a format that is a folder.
_PARTS = {
    "sllm": re.compile(r"tensor\.data_\d+|tensor_index\.json"),
    "dcp": re.compile(r"(__\d+)?\.metadata|.*\.distcp"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files are the weights, by their names.

    Attributes
    ----------
    kind : str
        Of the source; empty where only what is in the file tells.
    index : str
        A weight index, which names the files; else empty.
    files : tuple of str
        The files; of a format that is a folder, the one which names the others.
    """

    kind: str
    index: str
    files: tuple[str, ...]

    def parts(self, names: list[str]) -> list[str]:
        """All files that hold tensors, of those there are; without those of an index."""
        if self.kind not in _PARTS:
            return list(self.files)
        folder = os.path.dirname(self.files[0])
        return [
            name for name in names
            if os.path.dirname(name) == folder
            and _PARTS[self.kind].fullmatch(os.path.basename(name))
        ]  # fmt: skip


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
    """Choose the weights of a folder.

    Of a format that is a folder, the one file is that which names the others.

    Raises
    ------
    SourceError
        No weights, several sets of them, or a shard that is missing.
    """
    names = sorted(n for n in os.listdir(folder) if is_file_or_gone(os.path.join(folder, n)))
    below = [f"{n}/{FOLDER_MARKS['sllm']}" for n in os.listdir(folder) if _RANK.fullmatch(n)]
    choice = choose_weights(
        folder, names + [n for n in below if os.path.isfile(os.path.join(folder, n))]
    )
    if choice is None:
        raise no_weights(folder, names)
    for name in (choice.index, *choice.files):
        refuse_broken_link(os.path.join(folder, name))
    if choice.index:
        return index_weights(folder, choice.kind, choice.index)
    kind = choice.kind or file_kind(os.path.join(folder, choice.files[0]))
    return Weights(kind, choice.files, {})


def choose_weights(where: str, names: list[str]) -> Choice | None:
    """Choose by names alone: safetensors and torch before all others, an index before a guess.

    Parameters
    ----------
    where : str
        A folder or repository, for messages.
    names : list of str
        Its files, in order; what is in folders below it counts for ranks alone.

    Raises
    ------
    SourceError
        Several sets of weights, or a shard that is missing.
    """
    beside = [n for n in names if "/" not in n]
    suffixes = (*FILE_SUFFIXES["safetensors"], *FILE_SUFFIXES["torch"])
    first = [n for n in beside if n.endswith(suffixes) and not NOT_WEIGHTS.fullmatch(n)]
    found = _whole_folder(where, names, first)
    if found is None:
        found = _usual_files(where, beside, first)
    return found or _other_files(where, beside)


def _whole_folder(where: str, names: list[str], first: list[str]) -> Choice | None:
    """The folder as one checkpoint of a format that is a folder; beside other weights, neither."""
    pieces = [n for n in names if n.endswith(".distcp") and "/" not in n]
    marks = {"sllm": FOLDER_MARKS["sllm"] in names, "dcp": bool(pieces)}
    kinds = [kind for kind, marked in marks.items() if marked]
    if not kinds:
        return None if first else _one_rank(where, names)
    found = [*(FOLDER_MARKS[kind] for kind in kinds), *first]
    if len(found) > 1:
        raise SourceError(
            f"{where}: holds checkpoints of several formats: {', '.join(found[:6])}",
            hint=f"name one file: ckptfmt convert {where}/{found[0]} TARGET",
        )
    return Choice(kinds[0], "", (found[0],))


def _one_rank(where: str, names: list[str]) -> Choice | None:
    """The only rank of a model that vLLM saved with ServerlessLLM Store; several are refused."""
    folders = [os.path.split(n)[0] for n in names if os.path.split(n)[1] == FOLDER_MARKS["sllm"]]
    ranks = sorted(
        (n for n in folders if _RANK.fullmatch(n)), key=lambda n: int(n.removeprefix("rank_"))
    )
    if not ranks:
        return None
    if ranks != ["rank_0"]:
        raise SourceError(
            f"{where}: holds {', '.join(ranks[:6])}, each a part of the tensors; how they are "
            f"joined only the model knows",
            hint=f"name one: ckptfmt convert {where}/{ranks[0]} TARGET",
        )
    return Choice("sllm", "", (f"rank_0/{FOLDER_MARKS['sllm']}",))


def _usual_files(where: str, names: list[str], first: list[str]) -> Choice | None:
    for kind, default in _DEFAULTS.items():
        suffixes = FILE_SUFFIXES[kind]
        indexes = [n for n in names if n.endswith(tuple(f"{s}.index.json" for s in suffixes))]
        if indexes:
            return Choice(kind, the_one(where, indexes, f"{default}.index.json"), ())
        files = [n for n in first if n.endswith(suffixes)]
        if files:
            return Choice(kind, "", tuple([default] if default in files else shards(where, files)))
    return None


def _other_files(where: str, names: list[str]) -> Choice | None:
    """The one file of another kind, or all files of a split one."""
    for suffix in (".ckpt", ".gguf", ".npz"):
        files = [n for n in names if n.endswith(suffix)]
        if files:
            chosen = shards(where, files) if suffix == ".gguf" else [the_one(where, files, "")]
            return Choice("", "", tuple(chosen))
    return None
