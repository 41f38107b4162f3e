"""MindSpore's own package writes, and loads, what is converted here without it.

It brings a numpy of its own and so has an environment of its own: ``MINDSPORE_PYTHON``, which
scripts/test.sh makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import ckptfmt

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / ".venv-mindspore" / "bin" / "python"
PYTHON = os.environ.get("MINDSPORE_PYTHON") or (str(OWN) if OWN.exists() else "")
MISSING = os.environ.get("MINDSPORE_MISSING") or "mindspore is not installed: scripts/test.sh does"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason=MISSING)]

WRITE_AND_LOAD = """
import json, os, sys
import numpy as np
import mindspore as ms
from mindspore.train import serialization

folder = sys.argv[1]
rng = np.random.default_rng(0)
KINDS = ["bool_", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
         "float16", "float32", "float64", "bfloat16"]
values = []
for kind in KINDS:
    for shape in ((3, 5), (7,), (), (40, 30)):
        array = rng.integers(0, 2 if kind == "bool_" else 100, shape).astype(np.float32)
        value = ms.Tensor(array, getattr(ms, kind))
        values.append({"name": f"{kind}.{len(shape)}.{array.size}", "data": ms.Parameter(value)})
append = {"note": "größe", "epoch": 7, "rate": 0.5}
ms.save_checkpoint(values, os.path.join(folder, "plain.ckpt"), append_dict=append)
ms.save_checkpoint(values, os.path.join(folder, "checked.ckpt"), crc_check=True)
serialization.SLICE_SIZE = 1  # KiB, so that tensors are cut
ms.save_checkpoint(values, os.path.join(folder, "sliced.ckpt"))
no_bfloat16 = [v for v in values if not v["name"].startswith("bfloat16")]
ms.save_checkpoint(no_bfloat16, os.path.join(folder, "model.safetensors"), format="safetensors")

found = {}
for name in ("plain.ckpt", "checked.ckpt", "sliced.ckpt", "model.safetensors"):
    kind = name.rpartition(".")[2]
    loaded = ms.load_checkpoint(os.path.join(folder, name), format=kind)
    found[name] = {
        key: value if isinstance(value, str)
        else [str(value.dtype), list(value.shape), bytes(value.get_bytes()).hex()]
        for key, value in loaded.items()
    }
with open(os.path.join(folder, "loaded.json"), "w") as stream:
    json.dump(found, stream)
"""
DTYPES = {
    "Bool": "BOOL", "Int8": "I8", "UInt8": "U8", "Int16": "I16", "UInt16": "U16", "Int32": "I32",
    "UInt32": "U32", "Int64": "I64", "UInt64": "U64", "Float16": "F16", "BFloat16": "BF16",
    "Float32": "F32", "Float64": "F64",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mindspore")
    child = subprocess.run(
        [PYTHON, "-c", WRITE_AND_LOAD, str(made)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return made


@pytest.mark.parametrize(
    "name", ["plain.ckpt", "checked.ckpt", "sliced.ckpt", "model.safetensors"]
)
def test_what_mindspore_saves_is_loaded_as_mindspore_loads_it(
    name: str, folder: Path, tmp_path: Path
) -> None:
    wanted = json.loads((folder / "loaded.json").read_text())[name]
    target = tmp_path / "x.ckpt"
    ckptfmt.convert(folder / name, target)
    texts = {key: value for key, value in wanted.items() if isinstance(value, str)}
    tensors = {key: value for key, value in wanted.items() if not isinstance(value, str)}
    assert ckptfmt.verify(target, against=folder / name).compared == len(tensors) > 40
    with ckptfmt.open(target) as checkpoint:
        assert {entry.name for entry in checkpoint.index.tensors} == set(tensors)
        for key, (dtype, shape, data) in tensors.items():
            info = checkpoint.info(key)
            assert (info.dtype, list(info.shape)) == (DTYPES[dtype], shape), key
            assert bytes(checkpoint.read(key)).hex() == data, key
        if name.endswith(".ckpt"):
            assert checkpoint.metadata == texts
