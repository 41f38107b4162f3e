"""What needs no transformers: what is said without it, where things are, what is cast, reading."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt.transformers import places, precision, storage
from ckptfmt.transformers.pending import Pending, Taken
from ckptfmt.transformers.places import Places
from ckptfmt.transformers.reader import Portion, Reader
from tests.helpers.children import run_child
from tests.helpers.models import equal_bits

WITHOUT = """
import sys
for name in ("transformers", "peft", "accelerate"):
    sys.modules[name] = None  # importing it fails
import ckptfmt, ckptfmt.transformers
assert "torch" not in sys.modules
from ckptfmt.transformers import load_lora, load_model, save_lora, save_model
from ckptfmt.transformers import library
for call in (
    lambda: load_model({path!r}),
    lambda: load_lora(None, "a", {path!r}),
    lambda: save_lora(None, "a.lora"),
    lambda: library.import_accelerate("device_map='auto'"),
):
    try:
        call()
    except ckptfmt.MissingDependencyError as error:
        print(error, "|", error.hint)
assert len(ckptfmt.load({path!r})) == {count}
ckptfmt.save_dict(ckptfmt.load({path!r}), "other.ckpt")
"""


def test_without_the_libraries(
    checkpoint: Path, model: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    child = run_child(WITHOUT.format(path=str(checkpoint), count=len(model)))
    assert child.stderr == ""
    told = child.stdout.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "ckptfmt.transformers needs transformers", "load_lora needs peft", "save_lora needs peft",
        "device_map='auto'",
    ]  # fmt: skip
    assert told[0].endswith("| pip install 'ckptfmt[transformers]'")
    assert "a model on several devices needs accelerate" in told[3]


def test_an_old_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    from ckptfmt.transformers import library

    old = types.ModuleType("transformers")
    old.__version__ = "4.40.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(ckptfmt.MissingDependencyError) as caught:
        library.import_transformers()
    wanted = f"transformers 4.40.2 is installed, needed is {library.OLDEST} or newer"
    assert str(caught.value) == wanted


def test_the_package_has_what_it_lists() -> None:
    import ckptfmt.transformers as package

    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        package.load_modle  # noqa: B018


# ---- where the folder is ----


def test_a_root_that_is_given_comes_before_the_one_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m", "given/m", "set/m", "set/only"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.delenv("STORAGE_PATH", raising=False)
    assert storage.find("m", None) == "m"
    with pytest.raises(ckptfmt.NotFoundError, match="only: no such model: "):
        storage.find("only", None)
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path / "set"))
    assert storage.find("m", None) == "m"
    assert storage.find("only", None) == str(tmp_path / "set/only")
    assert storage.find("m", "given") == "given/m"
    assert storage.find(tmp_path / "m", "given") == str(tmp_path / "m")
    with pytest.raises(ckptfmt.NotFoundError, match="given/only: no such model: ") as caught:
        storage.find("only", "given")
    assert "convert" in (caught.value.hint or "")
    with pytest.raises(ckptfmt.NotFoundError, match=r"nor is .*set/none"):
        storage.find("none", None)


# ---- which device ----


def test_the_longest_name_of_a_map_decides() -> None:
    found = Places({"": "cpu", "model.layers.1": "npu:1", "model.layers.1.mlp": "npu:2"})
    assert found.of("model.layers.1.mlp.up_proj.weight") == "npu:2"
    assert found.of("model.layers.1.norm") == "npu:1"
    assert found.of("model.layers.10.norm") == "cpu"
    assert found.only is None
    assert Places({"a": "npu:1", "b": "npu:1"}).only == "npu:1"
    assert Places({"a": "npu:1"}).of("b") is None


def test_stored_names_may_lack_the_prefix_or_have_one_more() -> None:
    found = Places({"model.a": "npu:0", "model.b": "npu:1", "head": "npu:2"})
    names = ["model.a.weight", "b.weight", "head.weight", "other"]
    assert found.of_stored(names, "model") == {
        "model.a.weight": "npu:0", "b.weight": "npu:1", "head.weight": "npu:2", "other": "npu:0",
    }  # fmt: skip
    base = Places({"a": "npu:0", "b": "npu:1"})
    assert base.of_stored(["model.b.weight"], "model") == {"model.b.weight": "npu:1"}
    assert base.of_stored(["model.b.weight"], "") == {"model.b.weight": "npu:0"}


@pytest.mark.parametrize("given", [None, "cpu", torch.device("cpu"), {"": "cpu"}])
def test_ways_to_say_the_cpu(given: Any) -> None:
    found = places.given(given)
    assert found is not None
    assert found.only == "cpu"


@pytest.mark.parametrize("given", ["disk", "meta", {"a": "disk"}, {}, 3, "tpu:0", True])
def test_what_no_tensor_can_be_loaded_to(given: Any) -> None:
    with pytest.raises(ckptfmt.OptionError):
        places.given(given)


@pytest.mark.parametrize("how", places.SPREAD)
def test_several_devices_are_left_to_accelerate(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(places, "accelerators", lambda: found)
    assert places.given(how) == Places({"": "cpu"})
    found.append("npu:0")
    assert places.given(how) == Places({"": "npu:0"})
    assert places.given(0) == Places({"": "npu:0"})
    found.append("npu:1")
    assert places.given(how) is None
    assert places.given({"a": 1, "": 0}) == Places({"a": "npu:1", "": "npu:0"})


# ---- which dtype ----


class Ruled:
    _keep_in_fp32_modules = ("wo",)


def test_what_is_cast_while_it_is_read(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.ones(4, 4), "a.bias": torch.ones(4), "wo.weight": torch.ones(2, 2),
        "gate.weight": torch.ones(2, 2, dtype=torch.bfloat16), "ids": torch.ones(2, 2).int(),
    }  # fmt: skip
    ckptfmt.save_dict(tensors, tmp_path / "m.ckpt")
    index = ckptfmt.open(tmp_path / "m.ckpt").index
    row = precision.stored(index)
    assert row is not None
    assert row.name == "F32"
    half, full = precision.wanted("fp16"), precision.wanted(torch.float32)
    assert half is not None
    assert full is not None
    cast, others = precision.to_cast(index, half, Ruled)
    assert cast == ["a.weight"]
    assert set(others) == set(tensors) - {"a.weight"}
    assert precision.to_cast(index, full, Ruled)[0] == []
    assert precision.wanted("auto") is precision.wanted(None) is None


def test_no_floating_tensor_has_no_dtype(tmp_path: Path) -> None:
    ckptfmt.save_dict({"ids": torch.arange(3)}, tmp_path / "m.ckpt")
    assert precision.stored(ckptfmt.open(tmp_path / "m.ckpt").index) is None


# ---- the reader ----


def test_a_tensor_is_given_once_it_is_there(
    checkpoint: Path, model: dict[str, torch.Tensor]
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def progress(done: int, total: int) -> None:
        reading.set()
        go_on.wait(60)

    with ckptfmt.open(checkpoint) as opened, Reader(
        opened, verify=None, progress=progress
    ) as reader:
        name = "embed.weight"
        pending = Pending(reader, name, opened.info(name))
        reader.start([Portion()])
        assert reading.wait(60)
        assert not reader.ended
        assert (pending.shape, pending.dtype) == (model[name].shape, model[name].dtype)
        taken = pending.to("cpu")[...]
        assert isinstance(taken, Taken)
        go_on.set()
        found = taken.contiguous().to("cpu")
        assert equal_bits(found, model[name])
        assert reader.began < reader.asked <= reader.ended
        assert name not in reader.left
        with pytest.raises(KeyError):
            reader.tensor(name)  # it is the model's now


def test_leaving_stops_the_thread(checkpoint: Path) -> None:
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        stopped.wait(60)

    stopped = threading.Event()
    with ckptfmt.open(checkpoint) as opened, Reader(
        opened, verify=None, progress=progress
    ) as reader:
        reader.start([Portion(), Portion()])
        threading.Timer(0.05, stopped.set).start()
    assert len(calls) <= 1  # it ended at the next word of progress
    assert not [t for t in threading.enumerate() if t.name == "ckptfmt-model"]


def test_a_failure_is_told_to_who_asks(checkpoint: Path) -> None:
    with ckptfmt.open(checkpoint) as opened, Reader(opened, verify=None, progress=None) as reader:
        reader.start([Portion(names=["nothing"])])
        with pytest.raises(ckptfmt.TensorNotFoundError):
            reader.tensor("nothing")
        with pytest.raises(ckptfmt.TensorNotFoundError):
            reader.raise_its_error()
