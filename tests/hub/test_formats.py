"""Every format that is read, from both hubs: what is fetched, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.formats import FORMATS
from tests.helpers.models import equal_bits, random_tensor
from tests.hub.places import Place
from tests.hub.server import File


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


def publish(place: Place, folder: Path) -> None:
    """Make a folder, with a configuration beside its weights, the repository."""
    (folder / "config.json").write_text("{}")
    place.hub.repositories["org/model"] = {
        str(path.relative_to(folder)): File.of(path)
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_converted_from_a_hub_as_from_a_folder(
    place: Place, name: str, beside: Path
) -> None:
    form = FORMATS[name]
    tensors = {
        f"{str(dtype).removeprefix('torch.')}.{i}": random_tensor((5, 16 + i), dtype, i)
        for dtype in form.dtypes for i in range(2)
    }  # fmt: skip
    source = form.write(beside, tensors)
    folder = source if source.is_dir() else source.parent
    publish(place, folder)
    report = place.convert()
    assert (report.sidecars, report.left_out) == (["config.json"], [])
    loaded, wanted = ckptfmt.load(place.target), form.read(source)
    assert set(loaded) == set(wanted) == set(tensors)
    assert all(equal_bits(loaded[n], wanted[n]) for n in wanted)
    assert ckptfmt.verify(place.target, against=source).problems == []
    with ckptfmt.open(place.target) as checkpoint:
        told = checkpoint.provenance["source"]
    files = place.hub.repositories["org/model"]
    assert told["kind"] == name.partition(",")[0]
    assert {f["name"]: f["nbytes"] for f in told["files"]} == {
        n: file.nbytes for n, file in files.items() if n != "config.json"
    }
    assert all(f.get("sha256") or f.get("git_sha1") for f in told["files"])


def test_the_only_rank_of_a_model_is_found_in_its_folder(place: Place, beside: Path) -> None:
    from tests.helpers.formats import write_sllm

    tensors = {"a": torch.arange(12.0), "b": torch.ones(3, dtype=torch.int8)}
    write_sllm(beside, tensors, rank="rank_0")
    publish(place, beside)
    place.convert()
    loaded = ckptfmt.load(place.target)
    assert all(equal_bits(loaded[n], tensors[n]) for n in tensors)


def test_of_several_files_none_is_fetched(place: Place, beside: Path) -> None:
    """They may be the same model in ten sizes."""
    for name in ("small", "large"):
        FORMATS["gguf"].write(beside, {"a": torch.ones(4)}).rename(beside / f"{name}.gguf")
    publish(place, beside)
    error = place.failing()
    assert isinstance(error, ckptfmt.SourceError)
    assert "cannot tell which files belong together: large.gguf, small.gguf" in str(error)
    assert error.hint == "fetch what is meant with the hub's client, and convert that"
    assert place.hub.count("/storage/") == 0


def test_other_formats_cannot_be_streamed(place: Place, beside: Path) -> None:
    FORMATS["npz"].write(beside, {"a": torch.ones(4)})
    publish(place, beside)
    error = place.failing(stream=True)
    assert "has no safetensors, and other weights cannot be streamed" in str(error)
    assert place.hub.count("model.npz") == 0
