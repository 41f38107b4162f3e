"""``save_model``, ``save_dict``: what live objects hold comes back, and their configs go along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptfmt
from tests.helpers.anonymous import peak_nbytes
from tests.helpers.models import equal_bits, random_tensor


class Net(torch.nn.Module):
    """Tied weights, buffers of both kinds, and parameters that are views of others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.head = torch.nn.Linear(16, 50)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.arange(7))
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        whole = random_tensor((40, 30), torch.float32, 1)
        self.transposed = torch.nn.Parameter(whole.t())
        self.strided = torch.nn.Parameter(whole[::3, 1::2])
        self.narrow = torch.nn.Parameter(random_tensor((5, 3), torch.bfloat16, 2))


class Config:
    """As those of transformers, as far as saving asks."""

    def __init__(self, name: str, **values: object) -> None:
        self.name = name
        self.architectures: list[str] | None = None
        self.values = values

    def save_pretrained(self, folder: str) -> None:
        values = {**self.values, "architectures": self.architectures}
        (Path(folder) / self.name).write_text(json.dumps(values))


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert equal_bits(found[name], tensor), name


def test_a_module_comes_back(tmp_path: Path) -> None:
    net = Net()
    report = ckptfmt.save_model(net, tmp_path / "net.ckpt")
    assert report.sidecars == []
    found = ckptfmt.load(tmp_path / "net.ckpt")
    check(found, net.state_dict())
    assert "steps" in found
    assert "scratch" not in found
    assert found["head.weight"].data_ptr() == found["embed.weight"].data_ptr()
    other = Net()
    ckptfmt.open(tmp_path / "net.ckpt").load_into(other)
    check(other.state_dict(), net.state_dict())
    assert ckptfmt.verify(tmp_path / "net.ckpt").ok


def test_a_dict_comes_back_whatever_its_tensors_are(tmp_path: Path) -> None:
    whole = random_tensor((64, 33), torch.float32, 3)
    tensors = {
        "row": whole[5], "column": whole[:, 5], "expanded": whole[:1].expand(9, 33),
        "flipped": whole.flip(0), "scalar": torch.tensor(3.0), "empty": torch.empty(0, 4),
        "conj": random_tensor((7,), torch.complex64, 4).conj(),
        "inference": torch.ones(3),
    }  # fmt: skip
    with torch.inference_mode():
        tensors["inference"] = torch.ones(3) * 2
    ckptfmt.save_dict(tensors, tmp_path / "d.ckpt")
    check(ckptfmt.load(tmp_path / "d.ckpt"), {n: t.resolve_conj() for n, t in tensors.items()})


def test_options_are_those_of_convert(tmp_path: Path) -> None:
    tensors = {f"t.{i}": torch.randn(1000, 300) for i in range(3)}
    tensors["bias"] = torch.randn(5)
    seen: list[tuple[int, int]] = []
    report = ckptfmt.save_dict(
        tensors, tmp_path / "d.ckpt", dtype="bf16", partition_size="1100KiB", alignment="64KiB",
        exclude="bias", workers=1, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(report.plan.partitions) == 3
    assert report.dropped == ["bias"]
    assert seen[-1] == (report.nbytes, report.nbytes)
    index = ckptfmt.open(tmp_path / "d.ckpt").index
    assert index.alignment == 65536
    assert {t.dtype for t in index.tensors} == {"BF16"}
    with pytest.raises(ckptfmt.TargetExistsError):
        ckptfmt.save_dict(tensors, tmp_path / "d.ckpt")
    ckptfmt.save_dict(tensors, tmp_path / "d.ckpt", force=True, include=["b*"])
    assert list(ckptfmt.load(tmp_path / "d.ckpt")) == ["bias"]
    with pytest.raises(TypeError, match="colour"):
        ckptfmt.save_dict(tensors, tmp_path / "e.ckpt", colour=1)  # type: ignore[call-arg]
    with pytest.raises(ckptfmt.SourceError, match="a live object cannot be resumed"):
        ckptfmt.save_dict(tensors, tmp_path / "e.ckpt", resume=True)  # type: ignore[call-arg]
    with pytest.raises(ckptfmt.OptionError, match="tensor_parallel is 2, and nothing is cut"):
        ckptfmt.save_dict(tensors, tmp_path / "e.ckpt", tensor_parallel=2)  # type: ignore[call-arg]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.ckpt"]


def test_configs_go_along(tmp_path: Path) -> None:
    net: Any = Net()
    net.config = Config("config.json", hidden=16)
    net.generation_config = Config("generation_config.json", top_k=5)
    report = ckptfmt.save_model(net, tmp_path / "net.ckpt")
    assert report.sidecars == ["config.json", "generation_config.json"]
    config = json.loads((tmp_path / "net.ckpt" / "config.json").read_text())
    assert config == {"hidden": 16, "architectures": ["Net"]}
    assert net.config.architectures is None  # the model's own is left alone
    generation = json.loads((tmp_path / "net.ckpt" / "generation_config.json").read_text())
    assert generation["top_k"] == 5
    assert ckptfmt.verify(tmp_path / "net.ckpt").ok
    net.config.architectures = ["Other"]
    net.generation_config = None
    report = ckptfmt.save_model(net, tmp_path / "net.ckpt", force=True)
    assert report.sidecars == ["config.json"]
    assert "Other" in (tmp_path / "net.ckpt" / "config.json").read_text()
    net.config = {"hidden": 16}  # of a library that keeps it otherwise
    assert ckptfmt.save_model(net, tmp_path / "net.ckpt", force=True).sidecars == []


def test_what_goes_beside_a_dict(tmp_path: Path) -> None:
    beside = [Config("config.json", hidden=16), Config("tokenizer.json", words=3)]
    report = ckptfmt.save_dict({"a": torch.ones(1)}, tmp_path / "d.ckpt", beside=beside)
    assert report.sidecars == ["config.json", "tokenizer.json"]
    with pytest.raises(ckptfmt.SourceError, match="a set cannot be saved: "):
        ckptfmt.save_dict({"a": torch.ones(1)}, tmp_path / "e.ckpt", beside=[{1}])
    assert not (tmp_path / "e.ckpt").exists()


def test_that_attention_was_chosen_is_not_stored(tmp_path: Path) -> None:
    """transformers 4.51 would choose none when it loads; its models take that back as well."""

    class OfTransformers:
        def __init__(self) -> None:
            self._attn_implementation_autoset = True

        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / "config.json").write_text(json.dumps(vars(self)))

    config = OfTransformers()
    ckptfmt.save_dict({"a": torch.ones(3)}, tmp_path / "a.ckpt", beside=[config])
    stored = json.loads((tmp_path / "a.ckpt" / "config.json").read_text())
    assert stored == {"_attn_implementation_autoset": False}
    assert config._attn_implementation_autoset  # the caller's is as it was


def test_a_config_that_cannot_be_saved_is_told_before_anything_is_written(tmp_path: Path) -> None:
    net: Any = Net()
    net.config = Config("config.json", odd={1, 2})
    with pytest.raises(ckptfmt.SourceError, match="a Config cannot be saved: ") as caught:
        ckptfmt.save_model(net, tmp_path / "net.ckpt")
    assert "save_dict(model.state_dict(), path)" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("call", "message"), [
    (lambda path: ckptfmt.save_model({"a": torch.ones(1)}, path), "a dict, expected a torch mod"),
    (lambda path: ckptfmt.save_dict(Net(), path), "a Net, expected a dict of tensors"),  # type: ignore[arg-type]
    (lambda path: ckptfmt.save_dict({"a": 1}, path), "'a' is a int, expected a tensor"),
    (lambda path: ckptfmt.save_dict({"model": {"a": torch.ones(1)}}, path), "'model' is a dict"),
])  # fmt: skip
def test_what_is_no_module_or_dict_is_refused(call: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ckptfmt.SourceError, match=message):
        call(tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_meta_tensors_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = torch.nn.Linear(3, 3)
    with pytest.raises(ckptfmt.UnsupportedDtypeError, match="on the meta device"):
        ckptfmt.save_model(net, tmp_path / "a.ckpt")


def test_memory_is_bounded_by_the_workers(tmp_path: Path) -> None:
    """Transposed, so that nothing can be written as it lies."""
    peak = peak_nbytes(
        "ckptfmt.save_dict(tensors, sys.argv[1] + '/m.ckpt', workers=1, dtype='bf16')", tmp_path,
        setup="tensors = {f't{i}': torch.ones(5000, 2000).t() for i in range(5)}",
    )  # fmt: skip
    assert peak < 130 << 20  # of 200 MB


def test_save_lora_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ckptfmt.MissingDependencyError, match="save_lora needs peft") as caught:
        ckptfmt.save_lora(Net(), tmp_path / "a.ckpt")
    assert caught.value.hint == "pip install peft"
