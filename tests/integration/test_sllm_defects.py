"""Defects known of other stores that keep tensors in files of their own: none of them is ours.

The last bytes of a file that are silently not written, views written with all of the storage
behind them or with the storage's first bytes, dtypes refused, tensors misaligned by their
neighbours, memory freed under its users, short reads taken for whole ones.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.models import bits, equal_bits, random_tensor

Tensors = dict[str, torch.Tensor]


def _round_trip(tensors: Tensors, folder: Path, **options: object) -> Tensors:
    ckptfmt.convert(tensors, folder / "x.ckpt", **options)
    return ckptfmt.load(folder / "x.ckpt")


def _entries(folder: Path) -> list[tuple[str, ...]]:
    with ckptfmt.open(folder / "x.ckpt") as checkpoint:
        return [entry.names for entry in checkpoint.index.tensors]


# ---- the end of a file ----


@pytest.mark.parametrize("nbytes", [1, 511, 512, 4095, 4096, 4097, (1 << 20) - 1, (1 << 20) + 1])
def test_the_last_bytes_of_a_file_are_written(nbytes: int, tmp_path: Path) -> None:
    """A direct write of an unaligned length fails; whoever ignores that leaves an empty file."""
    wanted = random_tensor((nbytes,), torch.uint8)
    assert torch.equal(_round_trip({"x": wanted}, tmp_path)["x"], wanted)
    file = tmp_path / "x.ckpt" / "part-00000.ckptfmt"
    padded = -(-nbytes // 4096) * 4096
    blocks = -(-nbytes // (1 << 20))
    assert file.stat().st_size == 4096 + padded + 4 * (blocks + 1)
    assert file.read_bytes()[4096 : 4096 + nbytes] == bits(wanted)


def test_a_write_that_fails_fails_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def refuse_the_table(fd: int, data: bytes, offset: int) -> int:
        if len(data) == 8:  # one checksum and the table's own
            raise OSError(22, "Invalid argument")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse_the_table)
    with pytest.raises(ckptfmt.FileError, match=r"part-00000\.ckptfmt: cannot be written"):
        _round_trip({"x": torch.ones(100)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_short_writes_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def write_little(fd: int, data: memoryview, offset: int) -> int:
        return real(fd, bytes(data[:5001]), offset)

    monkeypatch.setattr(os, "pwrite", write_little)
    wanted = random_tensor((300_000,), torch.uint8)
    assert torch.equal(_round_trip({"x": wanted}, tmp_path)["x"], wanted)
    assert ckptfmt.verify(tmp_path / "x.ckpt").problems == []


# ---- views ----


def test_a_view_is_written_from_its_offset_on(tmp_path: Path) -> None:
    base = torch.arange(1000, dtype=torch.float32)
    found = _round_trip({"tail": base[600:], "row": base.view(10, 100)[7]}, tmp_path)
    assert torch.equal(found["tail"], base[600:])
    assert torch.equal(found["row"], base[700:800])


def test_a_small_view_does_not_bring_its_whole_storage(tmp_path: Path) -> None:
    base = torch.zeros(8 << 20)
    base[5] = 1
    found = _round_trip({"x": base[4:8]}, tmp_path)
    assert found["x"].tolist() == [0, 1, 0, 0]
    assert found["x"].untyped_storage().nbytes() == 16
    file = tmp_path / "x.ckpt" / "part-00000.ckptfmt"
    assert file.stat().st_size == 4096 + 4096 + 8


VIEWS = {
    "transposed": lambda b: b.t(),
    "every other column": lambda b: b[:, ::2],
    "every other row": lambda b: b[1::2],
    "a column": lambda b: b[:, 3],
    "expanded": lambda b: b[:1].expand(5, b.shape[1]),
    "permuted 4-D": lambda b: b.view(4, 7, 5, 12).permute(2, 0, 3, 1),
    "windows that overlap": lambda b: b.view(-1).unfold(0, 16, 8),
    "a scalar": lambda b: b[2, 3],
    "flipped copy": lambda b: b.flip(0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.uint8])
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides_are_written_as_they_look(
    view: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    wanted = VIEWS[view](random_tensor((28, 60), dtype))
    found = _round_trip({"x": wanted}, tmp_path)["x"]
    assert equal_bits(found, wanted)
    assert found.is_contiguous()


def test_strided_tensors_larger_than_a_chunk(tmp_path: Path) -> None:
    """Rows below, around and above what is made dense at a time."""
    base = random_tensor((3000, 1100), torch.float32)
    wide = random_tensor((2, 3_000_001), torch.uint8)
    wanted = {"t": base.t(), "cut": base[:, 1:], "wide": wide[:, 1:], "flat": wide.view(-1)[::3]}
    found = _round_trip(wanted, tmp_path, partition_size="5MiB")
    assert all(equal_bits(found[n], t) for n, t in wanted.items())


@pytest.mark.parametrize("shape", [(), (7,), (40, 50), (3, 700_000)], ids=str)
def test_lazy_conjugation_and_negation_are_carried_out(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    base = torch.randn(shape, dtype=torch.complex64)
    wanted = {"conj": base.conj(), "neg": base.conj().imag, "turned": base.mT.conj()
              if base.dim() > 1 else base.conj()}  # fmt: skip
    assert wanted["conj"].is_conj()
    assert wanted["neg"].is_neg()
    found = _round_trip(wanted, tmp_path)
    assert torch.equal(found["conj"], base.conj().resolve_conj())
    assert torch.equal(found["neg"], -base.imag)
    assert torch.equal(found["turned"], wanted["turned"].resolve_conj())
    assert not any(t.is_conj() or t.is_neg() for t in found.values())


def test_parameters_that_need_gradients_are_stored_and_come_back_plain(tmp_path: Path) -> None:
    found = _round_trip({"w": torch.nn.Parameter(torch.ones(3)) * 2}, tmp_path)
    assert not found["w"].requires_grad
    assert found["w"].tolist() == [2, 2, 2]


# ---- ties ----


def test_tied_weights_are_stored_once_and_loaded_as_shared_memory(tmp_path: Path) -> None:
    w = torch.randn(100, 30)
    found = _round_trip({"embed": w, "between": torch.ones(2), "head": w.detach()}, tmp_path)
    assert _entries(tmp_path) == [("embed", "head"), ("between",)]
    assert found["embed"].data_ptr() == found["head"].data_ptr()
    assert found["embed"] is not found["head"]
    found["head"][0, 0] = 17
    assert found["embed"][0, 0] == 17


@pytest.mark.parametrize(
    "way", [{"mmap": True}, {"dtype": "fp16"}, {"framework": "numpy"}], ids=str
)
def test_ties_are_kept_by_every_way_of_loading(way: dict[str, object], tmp_path: Path) -> None:
    w = torch.randn(100, 30)
    ckptfmt.convert({"a": w, "b": w}, tmp_path / "x.ckpt")
    found = ckptfmt.load(tmp_path / "x.ckpt", **way)
    found["a"][0, 0] = 17
    assert found["b"][0, 0] == 17


NOT_TIED = {
    "another offset": lambda w: w[10:],
    "another shape": lambda w: w.view(-1),
    "other strides": lambda w: w.t(),
    "another dtype": lambda w: w.view(torch.int32),
    "a part": lambda w: w[:10],
    "expanded": lambda w: w[:1].expand(20, 20),
}


@pytest.mark.parametrize("view", NOT_TIED)
def test_overlapping_but_not_tied_tensors_are_written_out_each(view: str, tmp_path: Path) -> None:
    w = torch.randn(20, 20)
    other = NOT_TIED[view](w)
    found = _round_trip({"w": w, "other": other}, tmp_path)
    assert len(_entries(tmp_path)) == 2
    assert equal_bits(found["w"], w)
    assert equal_bits(found["other"], other)
    before = found["other"].clone()
    found["w"].zero_()
    assert equal_bits(found["other"], before)


def test_empty_tensors_are_never_taken_for_tied(tmp_path: Path) -> None:
    wanted = {"a": torch.empty(0, 3), "b": torch.empty(0, 3), "c": torch.empty(0, 3)}
    found = _round_trip(wanted, tmp_path)
    assert len(_entries(tmp_path)) == 3
    assert all(tuple(t.shape) == (0, 3) for t in found.values())


def test_ties_within_a_torch_file_are_kept(tmp_path: Path) -> None:
    w = torch.randn(64, 64)
    torch.save({"a": w, "b": w, "view": w[3:5], "t": w.t()}, tmp_path / "m.bin")
    ckptfmt.convert(tmp_path / "m.bin", tmp_path / "x.ckpt")
    assert _entries(tmp_path) == [("a", "b"), ("view",), ("t",)]
    found = ckptfmt.load(tmp_path / "x.ckpt")
    assert torch.equal(found["view"], w[3:5])
    assert torch.equal(found["t"], w.t())


def test_a_filter_may_keep_one_of_two_tied_names(tmp_path: Path) -> None:
    w = torch.randn(5)
    ckptfmt.convert({"a": w, "b": w}, tmp_path / "x.ckpt", exclude=["a"])
    assert _entries(tmp_path) == [("b",)]


# ---- dtypes, alignment, ownership, reads ----


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bool,
                                   torch.complex64, torch.int8], ids=str)  # fmt: skip
def test_dtypes_that_others_refuse(dtype: torch.dtype, tmp_path: Path) -> None:
    wanted = random_tensor((33, 5), dtype)
    assert equal_bits(_round_trip({"x": wanted}, tmp_path)["x"], wanted)


def test_an_odd_size_misaligns_no_neighbour(tmp_path: Path) -> None:
    wanted = {f"{i}": random_tensor((2 * i + 1,), torch.uint8, i) for i in range(20)}
    wanted |= {f"d{i}": random_tensor((3,), torch.float64, i) for i in range(20)}
    found = _round_trip(wanted, tmp_path)
    assert all(t.data_ptr() % 4096 == 0 for t in found.values())
    mapped = ckptfmt.load(tmp_path / "x.ckpt", mmap=True)
    assert all(t.data_ptr() % 4096 == 0 for t in mapped.values())


def test_the_first_tensor_may_die_without_the_others(tmp_path: Path) -> None:
    wanted = {f"{i}": random_tensor((5000,), torch.float32, i) for i in range(10)}
    found = _round_trip(wanted, tmp_path)
    for name in list(found)[:-1]:
        del found[name]
        gc.collect()
        assert all(equal_bits(t, wanted[n]) for n, t in found.items())


def test_a_file_that_ends_early_is_not_taken_for_whole(tmp_path: Path) -> None:
    _round_trip({"x": torch.ones(1 << 20)}, tmp_path)
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        os.truncate(tmp_path / "x.ckpt" / "part-00000.ckptfmt", 1 << 20)
        with pytest.raises(ckptfmt.FormatError, match="the file ended while bytes"):
            checkpoint.load()
