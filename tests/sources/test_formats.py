"""Every format that is read: converted, compared with the source, loaded as its library does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.formats import FORMATS, Format, Tensors
from tests.helpers.handmade import snapshot
from tests.helpers.models import equal_bits, random_tensor


def converted(source: Path, folder: Path, **options: object) -> Path:
    """A checkpoint of `source`, every byte of it verified, and compared with the source."""
    target = folder / "x.ckpt"
    report = ckptfmt.convert(source, target, **options)
    assert ckptfmt.verify(target).problems == []
    names = sum(len(tensor.names) for tensor in report.plan.tensors)
    checked = ckptfmt.verify(target, against=source)
    assert (checked.problems, checked.compared) == ([], names)
    return target


def same(found: Tensors, wanted: Tensors) -> bool:
    return set(found) == set(wanted) and all(equal_bits(found[n], t) for n, t in wanted.items())


def shapes(form: Format) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from {"matrix": (3, 5), "row": (7,), "cube": (2, 3, 4), "scalar": ()}.items()
    if form.empty:
        yield from {"empty": (0,), "hollow": (4, 0)}.items()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_dtype_and_shape_is_loaded_as_the_library_loads_it(kind: str, tmp_path: Path) -> None:
    form = FORMATS[kind]
    wanted = {
        f"{str(dtype).removeprefix('torch.')}.{name}": random_tensor(shape, dtype, seed)
        for seed, dtype in enumerate(form.dtypes)
        for name, shape in shapes(form)
        # GGUF's writer counts bytes of these by their last dimension, which a scalar lacks.
        if (kind, dtype, shape) != ("gguf", torch.bfloat16, ())
    }
    source = form.write(tmp_path, wanted)
    assert same(form.read(source), wanted)
    target = converted(source, tmp_path)
    assert same(ckptfmt.load(target), wanted)
    with ckptfmt.open(target) as checkpoint:
        told = checkpoint.provenance["source"]
    assert told["kind"] == kind.partition(",")[0]
    assert sum(file["nbytes"] for file in told["files"]) > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_strided_tensors_are_loaded_as_the_library_loads_them(kind: str, tmp_path: Path) -> None:
    """Of several chunks, so that rows are cut; some libraries store strides, most do not."""
    form = FORMATS[kind]
    base = random_tensor((1500, 1003), torch.float32)
    tensors = {
        "transposed": base.t(),
        "permuted": random_tensor((4, 5, 6), torch.float16).permute(2, 0, 1),
        "long row": random_tensor((2, 1_100_000), torch.int8).t(),
    }
    source = form.write(tmp_path, tensors)
    wanted = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert same(form.read(source), wanted)
    assert same(ckptfmt.load(converted(source, tmp_path, workers=3)), wanted)


@pytest.mark.parametrize("kind", [k for k, form in FORMATS.items() if form.ties])
def test_tied_tensors_stay_tied(kind: str, tmp_path: Path) -> None:
    weight = random_tensor((6, 4), torch.float32)
    source = FORMATS[kind].write(tmp_path, {"embed": weight, "head": weight, "view": weight.t()})
    target = converted(source, tmp_path)
    with ckptfmt.open(target) as checkpoint:
        assert checkpoint.info("head").names == ("embed", "head")
        assert checkpoint.info("view").names == ("view",)
    assert same(ckptfmt.load(target), FORMATS[kind].read(source))


@pytest.mark.parametrize("kind", FORMATS)
def test_casts_and_filters_work_on_it(kind: str, tmp_path: Path) -> None:
    form = FORMATS[kind]
    tensors = {n: random_tensor((300, 7000), torch.float32, i) for i, n in enumerate("ab")}
    source = form.write(tmp_path, tensors)
    target = converted(source, tmp_path, dtype="fp16", exclude="b")
    assert same(ckptfmt.load(target), {"a": form.read(source)["a"].half()})


@pytest.mark.parametrize("kind", FORMATS)
def test_what_lies_beside_it_travels_and_its_own_files_do_not(kind: str, tmp_path: Path) -> None:
    form = FORMATS[kind]
    (tmp_path / "source").mkdir()
    source = form.write(tmp_path / "source", {"x": torch.ones(3)})
    folder = source if source.is_dir() else source.parent
    (folder / "config.json").write_text("{}")
    before = snapshot(tmp_path)
    report = ckptfmt.convert(folder, tmp_path / "x.ckpt")
    assert (report.sidecars, report.left_out) == (["config.json"], [])
    named = [n for n in before if not n.endswith("config.json")]
    if source.is_file():
        assert ckptfmt.convert(source, tmp_path / "y.ckpt").sidecars == []
    for name in named:
        assert not (tmp_path / "x.ckpt" / os.path.basename(name)).exists()
    assert {n: s for n, s in snapshot(tmp_path).items() if n.startswith("source")} == before


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_source_gives_the_same_bytes_with_any_number_of_workers(
    kind: str, tmp_path: Path
) -> None:
    tensors = {f"t{i}": random_tensor((700, 1000 + i), torch.float32, i) for i in range(8)}
    source = FORMATS[kind].write(tmp_path, tensors)
    options = {"partition_size": "12MiB"}
    for workers in (1, 5):
        ckptfmt.convert(source, tmp_path / f"{workers}.ckpt", workers=workers, **options)
    ids = []
    for workers in (1, 5):
        with ckptfmt.open(tmp_path / f"{workers}.ckpt") as checkpoint:
            ids.append(checkpoint.index.id)
    assert ids[0] == ids[1]
