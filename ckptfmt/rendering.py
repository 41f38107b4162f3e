"""What ``inspect`` shows: a table of tensors, a tree of modules, or plain values for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from ckptfmt.index import Index, TensorEntry
    from ckptfmt.topology import Cut, Topology


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
                **_of_rank(t),
            }
            for t in index.tensors
        ],
        **({} if index.topology is None else {"topology": _topology(index, index.topology)}),
        "metadata": index.metadata,
        "provenance": index.provenance,
    }  # fmt: skip


def _of_rank(tensor: TensorEntry) -> dict[str, Any]:
    """Whose a tensor is, and how the whole was cut."""
    if tensor.rank is None:
        return {}
    cut = tensor.cut
    told = {} if cut is None else {"cut": {"dim": cut.dim, "blocks": list(cut.blocks)}}
    return {"rank": tensor.rank, **told}


def _topology(index: Index, topology: Topology) -> dict[str, Any]:
    """What the ranks are, with the bytes that each has and shares."""
    shared, own = rank_sums(index)
    return {
        "kind": topology.kind, "tensor_parallel": topology.tensor_parallel,
        "layout": topology.layout, "shared_nbytes": shared,
        "rank_nbytes": [own.get(rank, 0) for rank in range(topology.tensor_parallel)],
    }  # fmt: skip


def rank_sums(index: Index) -> tuple[int, dict[int, int]]:
    """Bytes that all ranks share, and those of each that has some of its own."""
    shared = 0
    own: dict[int, int] = {}
    for tensor in index.tensors:
        if tensor.rank is None:
            shared += tensor.nbytes
        else:
            own[tensor.rank] = own.get(tensor.rank, 0) + tensor.nbytes
    return shared, own


def _kind(index: Index) -> list[tuple[str, str]]:
    if not index.id:
        return [("format", f"{index.format}, not converted: no checksums")]
    version = ".".join(map(str, index.version))
    return [("id", index.id), ("format", f"{version}, alignment {index.alignment}")]


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
    ranks = [] if index.topology is None else [("ranks", _ranks(index, index.topology))]
    return [
        ("checkpoint", path),
        *_kind(index),
        ("tensors", f"{len(index.tensors)}, {format_nbytes(index.nbytes)}"),
        ("dtypes", dtypes or "-"),
        ("partitions", f"{len(partitions)}, {format_nbytes(sum(partitions))}"),
        *ranks,
        ("source", _origin(source)),
        ("converted by", f"{index.provenance.get('tool', '-')}, dtype {options.get('dtype', '-')}"),
    ]


def _ranks(index: Index, topology: Topology) -> str:
    """How many, and what they have, on one line."""
    shared, own = rank_sums(index)
    sizes = sorted({own.get(rank, 0) for rank in (0, topology.tensor_parallel - 1, *own)})
    each = " to ".join(map(format_nbytes, dict.fromkeys((sizes[0], sizes[-1]))))
    what = "pieces of whole tensors" if topology.kind == "cut" else "the state of each"
    layout = ", ".join(f"{key} {text}" for key, text in sorted(topology.layout.items()))
    return printable(
        f"{topology.tensor_parallel}, {what}: {each} of its own, {format_nbytes(shared)} shared"
        + (f"; {layout}" if layout else "")
    )


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
        place = ", ".join(places) or "-"
        if tensor.rank is not None:
            place += f" of rank {tensor.rank}"
        if tensor.cut is not None:
            place += f", {_cut(tensor.cut)}"
        rows.append((name, tensor.dtype, shape, size, place))
    return rows


def _cut(cut: Cut) -> str:
    """What a piece was cut from, along which dimension."""
    blocks = f" in {len(cut.blocks)} blocks" if len(cut.blocks) > 1 else ""
    return f"dimension {cut.dim} of {sum(cut.blocks)}{blocks}"


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
