"""Some rows of tensors: what ``tensor[start:stop]`` would be, and little more is read for them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ckptfmt
from ckptfmt import LoadOptions
from ckptfmt.extents import Extents
from ckptfmt.index import Index
from ckptfmt.layout import BLOCK_NBYTES
from ckptfmt.rows import cut
from tests.helpers.handmade import flip
from tests.helpers.indexes import MIB, make_index, spec
from tests.helpers.models import equal_bits, random_tensor
from tests.helpers.mutations import fuzz_settings
from tests.helpers.refusals import refused

Tensors = dict[str, torch.Tensor]
Rows = dict[str, tuple[int, int]]

WAYS = {
    "direct": LoadOptions(reads="direct", op_nbytes=MIB),
    "buffered": LoadOptions(reads="buffered"),
    "pread": LoadOptions(reads="direct", io="pread"),
    "auto": LoadOptions(),
}


@pytest.fixture(scope="module")
def model() -> Tensors:
    """Large and small, of odd rows, of one dimension, empty, tied; 30 MB."""
    found = {
        "large": random_tensor((3000, 1001), torch.float16, 1),  # 6 MB, in several partitions
        "wide": random_tensor((3, MIB), torch.float32, 2),
        "bytes": random_tensor((5 * MIB + 7,), torch.uint8, 3),
        "small": random_tensor((70, 3), torch.bfloat16, 4),
        "cube": random_tensor((40, 5, 777), torch.float64, 5),
        "scalar": random_tensor((), torch.float32, 6),
        "empty": torch.empty(0, 7),
        "no.width": torch.empty(9, 0, dtype=torch.int32),
        "embed": random_tensor((500, 999), torch.float32, 7),
        "quantized": random_tensor((300, 1000), torch.float8_e4m3fn, 8),
    }
    found["head"] = found["embed"]
    return found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, model: Tensors) -> Path:
    """They, in partitions of four megabytes."""
    target = tmp_path_factory.mktemp("rows") / "x.ckpt"
    ckptfmt.convert(model, target, partition_size="4200KiB")
    return target


def sliced(model: Tensors, rows: Rows) -> Tensors:
    """What plain slicing gives."""
    return {name: t[slice(*rows[name])] if name in rows else t for name, t in model.items()}


def same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    assert [n for n in wanted if not equal_bits(found[n], wanted[n])] == []


def anonymous_nbytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


ROWS: list[Rows] = [
    {"large": (1000, 2000), "embed": (250, 500), "head": (250, 500)},
    {"large": (0, 1), "wide": (1, 2), "bytes": (MIB, 2 * MIB), "small": (5, 69)},
    {"bytes": (5 * MIB + 3, 5 * MIB + 7), "cube": (39, 40), "quantized": (17, 250)},
    {"large": (7, 7), "empty": (0, 0), "no.width": (2, 5), "wide": (0, 3)},
    {"large": (2999, 3000), "bytes": (MIB - 1, MIB + 1), "cube": (1, 39)},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", ROWS, ids=range(len(ROWS)))
def test_rows_are_what_slicing_gives(way: str, rows: Rows, stored: Path, model: Tensors) -> None:
    with ckptfmt.open(stored, options=WAYS[way]) as checkpoint:
        for given_names in (None, list(rows)):
            found = checkpoint.load(given_names, rows=rows)
            wanted = sliced(model, rows)
            same(found, wanted if given_names is None else {n: wanted[n] for n in rows})
            stats = checkpoint.load_stats()
            assert stats is not None
            memory = {t.data_ptr(): t.nbytes for t in found.values() if t.numel()}
            assert stats.nbytes == sum(memory.values())
        # Whole blocks are verified, and nothing else is read but padding between them.
        touched = sum(t.nbytes + 2 * BLOCK_NBYTES for t in found.values() if t.numel())
        assert stats.nbytes <= stats.verified_nbytes <= stats.read_nbytes <= touched


@pytest.mark.parametrize("way", WAYS)
def test_random_rows(way: str, stored: Path, model: Tensors) -> None:
    generator = torch.Generator().manual_seed(5)
    names = [n for n, t in model.items() if t.dim()]
    with ckptfmt.open(stored, options=WAYS[way]) as checkpoint:
        for _ in range(10):
            rows = {}
            for name in names:
                ends = torch.randint(0, model[name].shape[0] + 1, (2,), generator=generator)
                if torch.rand(1, generator=generator) < 0.7:
                    rows[name] = (int(ends.min()), int(ends.max()))
            same(checkpoint.load(rows=rows), sliced(model, rows))


@pytest.mark.parametrize("max_nbytes", [1, 3 * MIB, 512 * MIB])
def test_streams_give_the_same(max_nbytes: int, stored: Path, model: Tensors) -> None:
    with ckptfmt.open(stored) as checkpoint:
        for rows in ROWS:
            found = dict(checkpoint.stream(rows=rows, max_nbytes=max_nbytes))
            same(found, sliced(model, rows))


@pytest.mark.parametrize("options", [
    {"mmap": True}, {"mmap": True, "verify": True}, {"verify": False}, {"dtype": "bf16"},
    {"dtype": "fp32", "mmap": True},
], ids=str)  # fmt: skip
def test_other_ways_to_load(options: dict[str, object], stored: Path, model: Tensors) -> None:
    for rows in ROWS:
        found = ckptfmt.load(stored, rows=rows, **options)  # type: ignore[arg-type]
        wanted = sliced(model, rows)
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(str(options.get("dtype")))
        if dtype is not None:
            floats = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
            wanted = {n: t.to(dtype) if t.dtype in floats else t for n, t in wanted.items()}
            found = {n: t.nan_to_num() if t.dtype is dtype else t for n, t in found.items()}
            wanted = {n: t.nan_to_num() if t.dtype is dtype else t for n, t in wanted.items()}
        same(found, wanted)


def test_numpy_and_any_position(stored: Path, model: Tensors) -> None:
    names = [n for n in model if n not in ("small", "quantized")]
    for rows in ROWS:
        found = ckptfmt.load(stored, "cpu", names, framework="numpy", rows=rows)
        wanted = {n: t for n, t in sliced(model, rows).items() if n in names}
        assert {n: (a.shape, a.tobytes()) for n, a in found.items()} == {
            n: (tuple(t.shape), t.numpy().tobytes()) for n, t in wanted.items()
        }


def test_half_of_the_rows_is_half_of_the_bytes(stored: Path, model: Tensors) -> None:
    whole = model["large"].nbytes
    with ckptfmt.open(stored) as checkpoint:
        checkpoint.load(["large"], rows={"large": (0, 1500)})
        stats = checkpoint.load_stats()
    assert stats is not None
    assert stats.nbytes == whole // 2
    assert whole // 2 <= stats.read_nbytes <= whole // 2 + BLOCK_NBYTES
    assert sum(f.direct_nbytes + f.buffered_nbytes for f in stats.files.values()) == (
        stats.read_nbytes
    )


def test_rows_of_tied_names_are_each_what_was_asked_for(stored: Path, model: Tensors) -> None:
    whole = model["embed"]
    cases: list[Rows] = [
        {"embed": (0, 250)}, {"head": (100, 500)}, {"embed": (0, 250), "head": (200, 500)},
        {"embed": (0, 500), "head": (1, 2)},
    ]  # fmt: skip
    with ckptfmt.open(stored) as checkpoint:
        for rows in cases:
            same(checkpoint.load(["head", "embed"], rows=rows), {
                name: whole[slice(*rows.get(name, (0, 500)))] for name in ("embed", "head")
            })  # fmt: skip
            streamed = dict(checkpoint.stream(rows=rows, max_nbytes=MIB))
            same(streamed, sliced(model, rows))
        both = checkpoint.load(["head", "embed"], rows={"embed": (3, 9), "head": (3, 9)})
        assert both["head"].data_ptr() == both["embed"].data_ptr()
        both = checkpoint.load(["head", "embed"], rows={"embed": (0, 500)})
        assert both["head"].data_ptr() == both["embed"].data_ptr()
        only = checkpoint.load(["head"], rows={"embed": (3, 9)})
        same(only, {"head": whole})


def test_only_damage_in_the_blocks_read_is_found(tmp_path: Path) -> None:
    tensor = random_tensor((8, MIB), torch.uint8)
    ckptfmt.convert({"t": tensor}, tmp_path / "x.ckpt")
    flip(tmp_path / "x.ckpt" / "part-00000.ckptfmt", 4096 + 5 * MIB + 9)
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        same(checkpoint.load(rows={"t": (0, 5)}), {"t": tensor[:5]})
        same(checkpoint.load(rows={"t": (6, 8)}), {"t": tensor[6:]})
        for mmap in (False, True):
            error = refused(
                ckptfmt.ChecksumError, "part-00000.ckptfmt: tensor 't', bytes 52",
                lambda mmap=mmap: checkpoint.load(rows={"t": (4, 6)}, mmap=mmap, verify=True),
            )  # fmt: skip
            assert isinstance(error, ckptfmt.ChecksumError)
            assert (error.offset, error.nbytes) == (4096 + 5 * MIB, MIB)


def test_what_was_read_to_verify_is_given_back(tmp_path: Path) -> None:
    """Sixteen rows of 8 KB each, of blocks of 1 MiB: what stays are they, not the blocks."""
    tensors = {f"t{i}": random_tensor((1024, 8192), torch.uint8, i) for i in range(8)}
    ckptfmt.convert(tensors, tmp_path / "x.ckpt")
    rows = dict.fromkeys(tensors, (500, 516))
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        checkpoint.load(rows=rows)
        gc.collect()
        before = anonymous_nbytes()
        found = checkpoint.load(rows=rows)
        grown = anonymous_nbytes() - before
        stats = checkpoint.load_stats()
    same(found, {name: t[500:516] for name, t in tensors.items()})
    assert stats is not None
    assert stats.read_nbytes == 8 * 2 * MIB
    assert grown < 6 * MIB


@pytest.mark.parametrize(("rows", "kind", "message"), [
    ({"lorge": (0, 1)}, ckptfmt.TensorNotFoundError, "no tensor is named 'lorge'"),
    ({"large": (0, 3001)}, ckptfmt.OptionError, r"rows of 'large': 0..3001, it has rows 0..3000"),
    ({"large": (-1, 2)}, ckptfmt.OptionError, r"rows of 'large': -1..2"),
    ({"large": (3, 2)}, ckptfmt.OptionError, r"rows of 'large': 3..2"),
    ({"scalar": (0, 1)}, ckptfmt.OptionError, "rows of 'scalar': it is one element"),
    ({"large": slice(1, 2)}, ckptfmt.OptionError, r"rows of 'large': slice.*two numbers"),
    ({"large": (1, 2, 3)}, ckptfmt.OptionError, r"rows of 'large': \(1, 2, 3\), expected two"),
    ({"large": (0, None)}, ckptfmt.OptionError, r"rows of 'large': \(0, None\), expected two"),
], ids=["name", "past the end", "negative", "backwards", "scalar", "slice", "three",
        "no end"])  # fmt: skip
def test_what_cannot_be_cut(
    rows: Any, kind: type[ckptfmt.CkptError], message: str, stored: Path
) -> None:
    refused(kind, message, lambda: ckptfmt.load(stored, rows=rows))
    with ckptfmt.open(stored) as checkpoint:
        refused(kind, message, lambda: dict(checkpoint.stream(rows=rows)))


def test_rows_that_are_no_whole_bytes() -> None:
    entries = [
        spec("f4", "F4", 4, 6), spec("f6", "F6_E2M3", 4, 2), spec("flat", "F4", 8),
    ]  # fmt: skip
    index = make_index(entries)
    positions = {"f4": 0, "f6": 1, "flat": 2}

    def rows_of(name: str) -> tuple[Index, Extents, dict[str, int]]:
        return cut(index, Extents.of(index), positions, positions, {name: (1, 3)})

    assert rows_of("f4")[0].tensors[0].nbytes == 6
    refused(ckptfmt.OptionError, "rows of 'f6': its rows .* are no whole bytes",
            lambda: rows_of("f6"))  # fmt: skip
    refused(ckptfmt.OptionError, "rows of 'flat'", lambda: rows_of("flat"))


# ---- any rows of anything ----


@fuzz_settings
@given(data=st.data())
def test_any_rows_are_read_in_whole_blocks(data: st.DataObject) -> None:
    """Each byte wanted lies where it is said to lie in what is read, and no block is too many."""
    shapes = data.draw(
        st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5000)), min_size=1, max_size=6)
    )
    alignment = data.draw(st.sampled_from([4096, 65536, MIB]))
    entries = [spec(f"t{i}", "U8", *shape) for i, shape in enumerate(shapes)]
    limit = data.draw(st.sampled_from([64 * MIB, 4 * MIB]))
    index = make_index(entries, alignment=alignment, partition_nbytes=limit)
    extents = Extents.of(index)
    positions = {f"t{i}": i for i in range(len(shapes))}
    rows = {}
    for name in data.draw(st.sets(st.sampled_from(sorted(positions)))):
        ends = st.integers(0, shapes[positions[name]][0])
        first, second = data.draw(st.tuples(ends, ends))
        rows[name] = (min(first, second), max(first, second))
    part, partial, found = cut(index, extents, positions, positions, rows)
    assert found == positions
    reach = partial.reach(np.arange(len(partial.tensor)))
    read, at = reach.extents, 0
    for position, (count, width) in enumerate(shapes):
        start, stop = rows.get(f"t{position}", (0, count))
        entry = part.tensors[position]
        assert (entry.shape, entry.nbytes) == ((stop - start, width), (stop - start) * width)
        wanted = range(start * width, stop * width)
        begin = 0
        for stored in index.tensors[position].extents:
            low, high = max(wanted.start - begin, 0), min(wanted.stop - begin, stored.nbytes)
            begin += stored.nbytes
            if low >= high:
                continue
            assert (partial.offset[at], partial.nbytes[at]) == (stored.offset + low, high - low)
            before = int(read.offset[at]) - stored.offset
            assert before % MIB == 0
            assert low - MIB < before <= low
            end = before + int(read.nbytes[at])
            assert high <= end < high + MIB
            assert end % MIB == 0 or end == stored.nbytes
            assert reach.at[at] - reach.addresses[at] == low - before
            assert reach.at[at] + reach.span[at] <= reach.addresses[at] + read.span[at]
            at += 1
    assert at == len(partial.tensor) == len(reach.at)
    assert sorted(reach.addresses.tolist()) == reach.addresses.tolist()
