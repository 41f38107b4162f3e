"""``stream``: in file order, in bounded memory, and what was handed out is the caller's."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.handmade import flip
from tests.helpers.models import equal_bits, random_tensor
from tests.helpers.refusals import refused

Tensors = dict[str, torch.Tensor]


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ckptfmt")]


@pytest.fixture(scope="module")
def tied_model() -> Tensors:
    """Thirty tensors of 100 KB and more, some tied, some empty."""
    model = {f"t{i}": random_tensor((100_000 + 997 * i,), torch.uint8, i) for i in range(30)}
    model["t3.tied"] = model["t3"]
    model["t3.tied.again"] = model["t3"]
    model["empty"] = torch.empty(0, 4)
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, tied_model: Tensors) -> Path:
    """They, in several partitions."""
    target = tmp_path_factory.mktemp("stream") / "x.ckpt"
    ckptfmt.convert(tied_model, target, partition_size="1500KiB")
    return target


@pytest.mark.parametrize("max_nbytes", [1, 100_000, 250_000, 1 << 20, 512 << 20])
def test_everything_comes_in_file_order(
    max_nbytes: int, stored: Path, tied_model: Tensors
) -> None:
    with ckptfmt.open(stored) as checkpoint:
        found = list(checkpoint.stream(max_nbytes=max_nbytes))
        assert [name for name, _ in found] == list(checkpoint.names)
    assert all(equal_bits(t, tied_model[n]) for n, t in found)
    assert len(found) == len(tied_model)
    addresses = {n: t.data_ptr() for n, t in found}
    assert addresses["t3"] == addresses["t3.tied"] == addresses["t3.tied.again"]
    assert len({a for n, a in addresses.items() if n != "empty"}) == 30
    assert _threads() == []


def test_some_names_and_numpy(stored: Path, tied_model: Tensors) -> None:
    with ckptfmt.open(stored) as checkpoint:
        found = dict(checkpoint.stream(["t1*", "t3.tied"], framework="numpy", max_nbytes=300_000))
        assert list(found) == [n for n in checkpoint.names if n.startswith("t1") or n == "t3.tied"]
    assert all(array.tobytes() == tied_model[n].numpy().tobytes() for n, array in found.items())


def test_a_tensor_that_was_yielded_is_never_written_again(
    stored: Path, tied_model: Tensors
) -> None:
    """What is kept stays as it is, and what is changed changes nothing else."""
    kept: list[tuple[str, torch.Tensor]] = []
    with ckptfmt.open(stored) as checkpoint:
        for i, (name, tensor) in enumerate(checkpoint.stream(max_nbytes=250_000)):
            assert equal_bits(tensor, tied_model[name])
            if i % 3 == 0:
                kept.append((name, tensor))
            elif "tied" not in name and name != "t3":
                tensor.fill_(0xAA if tensor.numel() else 0)
            del tensor
    gc.collect()
    assert len(kept) > 8
    assert all(equal_bits(t, tied_model[n]) for n, t in kept)


def test_reading_goes_on_only_as_far_as_allowed(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been read or is being read, less what was yielded, stays within the bound."""
    from ckptfmt import loading

    ahead = {"nbytes": 0, "most": 0}
    real = loading.read_tensors

    def counting(request: loading.Request) -> object:
        entries = request.files.index.tensors
        ahead["nbytes"] += sum(entries[p].nbytes for p in set(request.chosen.values()))
        ahead["most"] = max(ahead["most"], ahead["nbytes"])
        return real(request)

    monkeypatch.setattr(loading, "read_tensors", counting)
    with ckptfmt.open(stored) as checkpoint:
        for name, tensor in checkpoint.stream(max_nbytes=600_000):
            if "tied" not in name:
                ahead["nbytes"] -= tensor.numel() * tensor.element_size()
    assert ahead["nbytes"] == 0
    assert 250_000 < ahead["most"] <= 600_000


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_leaving_early_leaves_no_thread(taken: int, stored: Path) -> None:
    with ckptfmt.open(stored) as checkpoint:
        stream = checkpoint.stream(max_nbytes=250_000)
        for _ in range(taken):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert _threads() == []
        for name, _ in checkpoint.stream(max_nbytes=250_000):
            if name == "t4":
                break
        gc.collect()
        assert _threads() == []
        assert len(checkpoint.load()) == 33
    refused(ckptfmt.ClosedError, "closed", checkpoint.load)


def test_an_error_in_the_loop_leaves_no_thread(stored: Path) -> None:
    def consume() -> None:
        for name, _ in checkpoint.stream(max_nbytes=250_000):
            if name == "t4":
                raise RuntimeError("enough")

    with ckptfmt.open(stored) as checkpoint:
        with pytest.raises(RuntimeError, match="enough"):
            consume()
        gc.collect()
        assert _threads() == []


def test_damage_is_raised_where_it_is_met(
    tmp_path: Path, tied_model: Tensors
) -> None:
    ckptfmt.convert(tied_model, tmp_path / "x.ckpt")
    with ckptfmt.open(tmp_path / "x.ckpt") as checkpoint:
        extent = checkpoint.info("t20").extents[0]
        flip(tmp_path / "x.ckpt" / "part-00000.ckptfmt", extent.offset)
        seen: list[str] = []

        def consume(**options: object) -> None:
            seen.extend(name for name, _ in checkpoint.stream(max_nbytes=250_000, **options))

        error = refused(ckptfmt.ChecksumError, "tensor 't20'", consume)
        assert isinstance(error, ckptfmt.ChecksumError)
        assert error.tensor == "t20"
        assert "t15" in seen
        assert "t20" not in seen
        assert _threads() == []
        seen.clear()
        consume(verify=False)
        assert len(seen) == 33


def test_two_streams_at_once(stored: Path, tied_model: Tensors) -> None:
    with ckptfmt.open(stored) as checkpoint:
        one, two = checkpoint.stream(max_nbytes=250_000), checkpoint.stream(max_nbytes=400_000)
        for (name, a), (_, b) in zip(one, two, strict=True):
            assert equal_bits(a, tied_model[name])
            assert equal_bits(b, a)
            assert name == "empty" or a.data_ptr() != b.data_ptr()
    assert _threads() == []


def test_unknown_names_are_refused_at_the_call(stored: Path) -> None:
    with ckptfmt.open(stored) as checkpoint:
        refused(ckptfmt.TensorNotFoundError, "no tensor", lambda: checkpoint.stream("nothing"))
