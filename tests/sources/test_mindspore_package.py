"""What MindSpore's own package writes is converted without it, and equal to what it loads.

``tests/sources/mindspore`` has what its release 2.7.0 wrote and loaded. The package takes 2.6 GB
and brings a numpy of its own, so it is asked anew only where ``MINDSPORE_PYTHON`` names a Python
that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import ckptfmt

HERE = Path(__file__).parent
WRITTEN = HERE / "mindspore"
PYTHON = os.environ.get("MINDSPORE_PYTHON", "")
FILES = ["plain.ckpt", "checked.ckpt", "sliced.ckpt", "model.safetensors"]
DTYPES = {
    "Bool": "BOOL", "Int8": "I8", "UInt8": "U8", "Int16": "I16", "UInt16": "U16", "Int32": "I32",
    "UInt32": "U32", "Int64": "I64", "UInt64": "U64", "Float16": "F16", "BFloat16": "BF16",
    "Float32": "F32", "Float64": "F64",
}  # fmt: skip


def compare(source: Path, folder: Path) -> None:
    """Convert a file; dtypes, shapes, bytes and texts are those that MindSpore loaded."""
    wanted = json.loads((source.parent / "loaded.json").read_text(encoding="utf-8"))[source.name]
    texts = {key: value for key, value in wanted.items() if isinstance(value, str)}
    tensors = {key: value for key, value in wanted.items() if not isinstance(value, str)}
    assert {dtype for dtype, _, _ in tensors.values()} == set(DTYPES)
    target = folder / "x.ckpt"
    ckptfmt.convert(source, target)
    checked = ckptfmt.verify(target, against=source)
    assert (checked.problems, checked.compared) == ([], len(tensors))
    with ckptfmt.open(target) as checkpoint:
        assert {entry.name for entry in checkpoint.index.tensors} == set(tensors)
        for key, (dtype, shape, data) in tensors.items():
            info = checkpoint.info(key)
            assert (info.dtype, list(info.shape)) == (DTYPES[dtype], shape), key
            assert bytes(checkpoint.read(key)).hex() == data, key
        if source.suffix == ".ckpt":
            assert checkpoint.metadata == texts


@pytest.mark.parametrize("name", FILES)
def test_what_mindspore_wrote_is_loaded_as_mindspore_loaded_it(name: str, tmp_path: Path) -> None:
    compare(WRITTEN / name, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="MINDSPORE_PYTHON names no Python that has mindspore")
def test_what_mindspore_writes_now_is_loaded_as_it_loads_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, HERE / "write_mindspore.py", tmp_path],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in FILES:
        (tmp_path / f"{name}.out").mkdir()
        compare(tmp_path / name, tmp_path / f"{name}.out")
