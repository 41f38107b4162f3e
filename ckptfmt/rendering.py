"""What ``inspect`` shows: a table of tensors, a tree of modules, or plain values for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from ckptfmt.index import Index


def to_dict(index: Index) -> dict[str, Any]:
    """The index as plain values, with sizes summed up."""
    return {
        "format": index.format,
        "version": list(index.version),
        "id": index.id,
        "alignment": index.alignment,
        "nbytes": index.nbytes,
        "dtypes": dtype_sums(index),
        "partitions": [
            {"file": p.file, "payload_nbytes": p.payload_nbytes} for p in index.partitions
        ],
        "tensors": [
            {
                "names": list(t.names), "dtype": t.dtype, "shape": list(t.shape),
                "nbytes": t.nbytes,
                "extents": [[e.partition, e.offset, e.nbytes] for e in t.extents],
            }
            for t in index.tensors
        ],
        "metadata": index.metadata,
        "provenance": index.provenance,
    }  # fmt: skip


def dtype_sums(index: Index) -> dict[str, dict[str, int]]:
    """Tensors and bytes of each dtype."""
    sums: dict[str, dict[str, int]] = {}
    for tensor in index.tensors:
        entry = sums.setdefault(tensor.dtype, {"tensors": 0, "nbytes": 0})
        entry["tensors"] += 1
        entry["nbytes"] += tensor.nbytes
    return sums


def summary(path: str, index: Index) -> list[tuple[str, str]]:
    """Label and text of the lines above the table."""
    source, options = _section(index, "source"), _section(index, "options")
    dtypes = ", ".join(
        f"{name} {format_nbytes(entry['nbytes'])} in {entry['tensors']}"
        for name, entry in dtype_sums(index).items()
    )
    partitions = [p.payload_nbytes for p in index.partitions]
    return [
        ("checkpoint", path),
        ("id", index.id),
        ("format", f"{index.version[0]}.{index.version[1]}, alignment {index.alignment}"),
        ("tensors", f"{len(index.tensors)}, {format_nbytes(index.nbytes)}"),
        ("dtypes", dtypes or "-"),
        ("partitions", f"{len(partitions)}, {format_nbytes(sum(partitions))}"),
        ("source", _origin(source)),
        ("converted by", f"{index.provenance.get('tool', '-')}, dtype {options.get('dtype', '-')}"),
    ]


def _origin(source: dict[str, Any]) -> str:
    """A name and a kind, or where on a hub it was."""
    kind = source.get("kind", "-")
    if source.get("repository") and source.get("hub"):
        commit = str(source.get("commit") or "-")
        return f"{source['repository']} on {source['hub']}, commit {commit} ({kind})"
    return f"{source.get('name') or kind} ({kind})"


def _section(index: Index, name: str) -> dict[str, Any]:
    """A part of the provenance; another writer may have put anything there."""
    section = index.provenance.get(name)
    return section if isinstance(section, dict) else {}


def printable(text: str) -> str:
    """The text on one line, in characters that do nothing to a terminal; others are escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def tensor_rows(index: Index) -> list[tuple[str, str, str, str, str]]:
    """Name, dtype, shape, size and place of each tensor."""
    rows = []
    for tensor in index.tensors:
        name = printable(" = ".join(tensor.names))
        shape = "×".join(map(str, tensor.shape)) or "scalar"
        places = [f"{e.partition}:{e.offset}" for e in tensor.extents]
        size = format_nbytes(tensor.nbytes)
        rows.append((name, tensor.dtype, shape, size, ", ".join(places) or "-"))
    return rows


@dataclass(slots=True)
class Node:
    """One module of the tree: its own name, and everything below it."""

    name: str
    nbytes: int = 0
    tensors: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def module_tree(index: Index) -> Node:
    """Tensor names cut at their dots; tied tensors count where they are named first."""
    root = Node("")
    for tensor in index.tensors:
        for i, name in enumerate(tensor.names):
            node = root
            for part in (None, *name.split(".")):
                if part is not None:
                    node = node.children.setdefault(part, Node(part))
                if i == 0:
                    node.nbytes += tensor.nbytes
                    node.tensors += 1
    return root
