"""Memory and reads stay within their bounds, whatever the size of the model."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptfmt
from tests.helpers.anonymous import peak_nbytes
from tests.helpers.children import run_child

MIB = 1 << 20
#: One tensor larger than many partitions, and others of all sizes: 700 MiB.
SIZES = {"large": 450 * MIB, **{f"layer.{i}": 12 * MIB + 4 * i for i in range(20)},
         **{f"small.{i}": 4096 for i in range(100)}, "rest": 9 * MIB}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for large files, emptied as soon as this module is done."""
    path = tmp_path_factory.mktemp("memory")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def safetensors_file(folder: Path) -> Path:
    """The model as float32; random bytes, the same 16 MiB over and over."""
    header, offset = {}, 0
    for name, nbytes in SIZES.items():
        header[name] = {
            "dtype": "F32", "shape": [nbytes // 4], "data_offsets": [offset, offset + nbytes],
        }  # fmt: skip
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = np.random.default_rng(1).standard_normal(4 * MIB, np.float32).tobytes()
    with (folder / "m.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for at in range(0, offset, len(values)):
            stream.write(values[: offset - at])
    return folder / "m.safetensors"


@pytest.fixture(scope="module")
def bin_file(folder: Path, safetensors_file: Path) -> Path:
    """The same, as torch saves it."""
    from safetensors.torch import load_file

    torch.save(load_file(safetensors_file), folder / "m.bin")
    return folder / "m.bin"


@pytest.fixture(scope="module")
def stored(folder: Path, safetensors_file: Path) -> Path:
    """The model, converted."""
    ckptfmt.convert(safetensors_file, folder / "stored.ckpt", partition_size="64MiB")
    return folder / "stored.ckpt"


CONVERT = """
ckptfmt.convert(sys.argv[1], sys.argv[2], partition_size="64MiB", dtype=sys.argv[3],
                workers=int(sys.argv[4]))
"""


CUT = """
plan = {"rows": "rowwise", "columns": "colwise"}
source, cut, again, joined = sys.argv[1:]
ckptfmt.convert(source, cut, tensor_parallel=8, tensor_parallel_plan=plan, workers=1)
ckptfmt.convert(cut, again, tensor_parallel=4, workers=1)
ckptfmt.convert(again, joined, tensor_parallel=1, workers=1)
"""


def test_cutting_for_ranks_and_joining_need_a_few_buffers(folder: Path) -> None:
    """Along the second dimension, too, where a piece is a part of every row."""
    from safetensors.numpy import save_file

    source = folder / "matrices.safetensors"
    values = np.random.default_rng(1).standard_normal((8192, 1024), np.float32)
    save_file({"rows": values, "columns": values}, source)
    made = [folder / f"{name}.ckpt" for name in ("cut", "again", "joined")]
    try:
        assert 4 * MIB <= peak_nbytes(CUT, source, *made) <= 40 * MIB  # of 64 in all
        found = ckptfmt.load(made[-1], framework="numpy")
        assert all(np.array_equal(found[name], values) for name in ("rows", "columns"))
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        source.unlink()


@pytest.mark.parametrize(("kind", "dtype", "workers", "limit"), [
    ("safetensors", "keep", 4, 512), ("safetensors", "bf16", 4, 512),
    ("safetensors", "keep", 1, 100), ("safetensors", "bf16", 1, 100),
    ("bin", "keep", 4, 512), ("bin", "bf16", 1, 100),
    ("checkpoint", "keep", 1, 100),
])  # fmt: skip
def test_a_conversion_needs_a_few_buffers(
    kind: str, dtype: str, workers: int, limit: int, folder: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    fixture = {"safetensors": "safetensors_file", "bin": "bin_file", "checkpoint": "stored"}
    source = request.getfixturevalue(fixture[kind])
    target = folder / "converted.ckpt"
    try:
        # Not less than one buffer: the meter sees what the workers use.
        assert 4 * MIB <= peak_nbytes(CONVERT, source, target, dtype, str(workers)) <= limit * MIB
        with ckptfmt.open(target) as checkpoint:
            assert len(checkpoint) == len(SIZES)
            assert len(checkpoint.info("large").extents) > 3
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_lazy_live_tensors_are_not_copied_whole(folder: Path) -> None:
    setup = """
base = torch.ones(6000, 12000)
lazy = torch.ones(200, 90000, dtype=torch.complex64).conj()
"""
    code = """
ckptfmt.convert({"t": base.t(), "c": lazy, "s": base[:, ::2]}, sys.argv[1], workers=1)
"""
    target = folder / "live.ckpt"
    try:
        assert peak_nbytes(code, target, setup=setup) <= 100 * MIB
    finally:
        shutil.rmtree(target, ignore_errors=True)


TOTAL = sum(SIZES.values())


@pytest.mark.parametrize("options", ["", 'options=ckptfmt.LoadOptions(reads="direct")',
                                     'options=ckptfmt.LoadOptions(reads="buffered")'])  # fmt: skip
def test_a_load_needs_the_tensors_and_little_more(options: str, stored: Path) -> None:
    peak = peak_nbytes(f"found = ckptfmt.load(sys.argv[1], {options})", stored)
    assert TOTAL <= peak <= TOTAL + 64 * MIB


def test_a_mapped_load_needs_next_to_nothing(stored: Path) -> None:
    code = 'found = ckptfmt.load(sys.argv[1], names="[ls]*.*", mmap=True, verify=True)'
    assert peak_nbytes(code, stored) <= 64 * MIB


def test_a_cast_needs_no_second_copy_of_the_model(stored: Path) -> None:
    code = 'found = ckptfmt.load(sys.argv[1], names=["layer.*", "rest"], dtype="bf16")'
    nbytes = sum(n for name, n in SIZES.items() if name.startswith(("layer", "rest")))
    assert nbytes // 2 <= peak_nbytes(code, stored) <= nbytes // 2 + (256 + 64) * MIB


def test_filling_needs_no_second_copy_of_the_model(stored: Path) -> None:
    setup = """
with ckptfmt.open(sys.argv[1]) as checkpoint:
    target = {n: torch.ones(checkpoint.info(n).shape) for n in checkpoint}
"""
    code = """
with ckptfmt.open(sys.argv[1]) as checkpoint:
    checkpoint.load_into(target)
"""
    assert peak_nbytes(code, stored, setup=setup) <= 64 * MIB


def test_a_stream_stays_within_its_bound(stored: Path) -> None:
    code = """
with ckptfmt.open(sys.argv[1]) as checkpoint:
    for name, tensor in checkpoint.stream(["layer.*", "small.*", "rest"], max_nbytes=64 << 20):
        assert tensor.numel()
"""
    # The bound is on what is read ahead; the tensor in the consumer's hand comes on top of it.
    assert peak_nbytes(code, stored) <= (64 + 13 + 32) * MIB


def test_a_stream_gives_back_what_the_consumer_drops(stored: Path) -> None:
    code = """
with ckptfmt.open(sys.argv[1]) as checkpoint:
    stream = checkpoint.stream(["large", "layer.1"], max_nbytes=1 << 20)
    name, tensor = next(stream)
    del tensor
    held = anon() - peak.base
    assert held <= 100 << 20, held
    stream.close()
"""
    peak_nbytes(code, stored)


@pytest.mark.parametrize("command", ["export", "verify", "against"])
def test_export_and_verify_need_a_few_buffers(
    command: str, stored: Path, folder: Path, safetensors_file: Path
) -> None:
    code = {
        "export": "ckptfmt.export(sys.argv[1], sys.argv[2])",
        "verify": "assert ckptfmt.verify(sys.argv[1]).ok",
        "against": "assert ckptfmt.verify(sys.argv[1], against=sys.argv[3]).compared == 122",
    }[command]
    target = folder / "exported"
    try:
        assert peak_nbytes(code, stored, target, safetensors_file) <= 192 * MIB
    finally:
        shutil.rmtree(target, ignore_errors=True)


# ---- reads ----

COLD = """
import json, os, sys, torch, ckptfmt
def read_nbytes():
    with open("/proc/self/io") as io:
        return next(int(n.split()[1]) for n in io if n.startswith("read_bytes"))

def drop():
    for file in os.listdir(sys.argv[1]):
        fd = os.open(os.path.join(sys.argv[1], file), os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

checkpoint = ckptfmt.open(sys.argv[1])
checkpoint["small.1"]
drop()
before = read_nbytes()
with open(os.path.join(sys.argv[1], "part-00001.ckptfmt"), "rb") as stream:
    stream.read(1)
counted = read_nbytes() - before
drop()
before = read_nbytes()
tensor = checkpoint["small.50"]
cost = read_nbytes() - before
direct = sum(file.direct_nbytes for file in checkpoint.load_stats().files.values())
print(json.dumps({"counted": counted, "cost": cost, "direct": direct, "nbytes": tensor.nbytes}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="no /proc/self/io on this kernel")
def test_one_small_tensor_of_a_cold_checkpoint_costs_few_reads(stored: Path) -> None:
    child = run_child(COLD, stored)
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    if told["counted"] == 0:
        pytest.skip("reads of this file system are not counted, or its cache cannot be dropped")
    assert told["nbytes"] == 4096
    assert told["cost"] <= 16384


# ---- imports ----


@pytest.mark.parametrize("code", [
    "import ckptfmt",
    "import ckptfmt; ckptfmt.convert, ckptfmt.CkptError, ckptfmt.LoadOptions",
    "import ckptfmt.cli",
])  # fmt: skip
def test_importing_imports_no_torch(code: str) -> None:
    child = run_child(f"{code}\nimport sys; print(*(n.split('.')[0] for n in sys.modules))")
    assert child.returncode == 0, child.stderr
    modules = set(child.stdout.split())
    assert "ckptfmt" in modules
    assert not {"torch", "transformers", "huggingface_hub", "modelscope"} & modules


def test_importing_the_package_imports_no_numpy_and_no_extension() -> None:
    child = run_child("import ckptfmt, sys; print(*sys.modules)")
    assert not {"numpy", "ckptfmt._core", "rich", "click"} & set(child.stdout.split())
