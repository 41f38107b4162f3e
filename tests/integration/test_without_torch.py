"""Where torch is not installed: everything but torch tensors works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ckptfmt
from tests.helpers.children import run_child
from tests.helpers.models import small_model, write_folder

#: Makes ``import torch`` fail as it does where there is none.
BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Blocker())
import ckptfmt
"""
CLI = BLOCK + "from ckptfmt.cli import main; main(sys.argv[1:])"


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """A folder of what numpy has: no bfloat16."""
    model = {n: t for n, t in small_model().items() if t.dtype is not torch.bfloat16}
    return write_folder(tmp_path / "floats", model, shards=2)


@pytest.mark.parametrize("command", ["convert", "load", "inspect", "verify", "export"])
def test_help(command: str) -> None:
    child = run_child(CLI, command, "--help")
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("Usage: ")


def test_convert_verify_inspect_export_and_load_as_numpy(
    floats: Path, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.ckpt"
    for args in (
        ["convert", source, tmp_path / "all.ckpt"], ["verify", tmp_path / "all.ckpt"],
        ["convert", floats, target, "--partition-size", "1100KiB"],
        ["verify", target, "--against", floats], ["inspect", target], ["inspect", "--tree", target],
        ["load", target, "--framework", "numpy"], ["export", target, tmp_path / "back"],
        ["convert", target, tmp_path / "again.ckpt"],
    ):  # fmt: skip
        child = run_child(CLI, *args)
        assert (child.returncode, child.stderr.replace("left out: ", "")) in {
            (0, ""), (0, "model.safetensors.index.json\n"),
        }, args  # fmt: skip
    code = BLOCK + """
import json
import numpy as np
arrays = ckptfmt.load(sys.argv[1], framework="numpy")
mapped = ckptfmt.load(sys.argv[1], framework="numpy", mmap=True)
halves = ckptfmt.load(sys.argv[1], framework="numpy", dtype="fp16")
filled = {name: np.zeros_like(array) for name, array in arrays.items()}
with ckptfmt.open(sys.argv[1]) as checkpoint:
    streamed = dict(checkpoint.stream(framework="numpy"))
    checkpoint.load_into(filled)
    raw = {name: bytes(checkpoint.read(name)).hex() for name in checkpoint}
for other in (mapped, streamed, filled):
    assert {n: a.tobytes() for n, a in other.items()} == {n: a.tobytes() for n, a in arrays.items()}
assert halves["layers.0.attn.weight"].dtype == "float16"
assert not any(name == "torch" or name.startswith("torch.") for name in sys.modules)
print(json.dumps(raw))
"""
    child = run_child(code, target)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    wanted = ckptfmt.load(target)
    assert {n: t.reshape(-1).view(torch.uint8).numpy().tobytes().hex() if t.numel() else ""
            for n, t in wanted.items()} == found  # fmt: skip


ASKS = {
    "load": "ckptfmt.load({checkpoint!r})",
    "item": "ckptfmt.open({checkpoint!r})['position_ids']",
    "stream": "list(ckptfmt.open({checkpoint!r}).stream())",
    "cast": "ckptfmt.convert({source!r}, {target!r}, dtype='fp16')",
    "bin": "ckptfmt.convert({bin!r}, {target!r})",
}


@pytest.mark.parametrize("what", ASKS)
def test_what_needs_torch_says_so(
    what: str, checkpoint: Path, source: Path, tmp_path: Path
) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "m.bin")
    ask = ASKS[what].format(
        checkpoint=str(checkpoint), source=str(source), target=str(tmp_path / "y.ckpt"),
        bin=str(tmp_path / "m.bin"),
    )  # fmt: skip
    code = BLOCK + f"""
try:
    {ask}
except ImportError as error:
    assert type(error) is ckptfmt.MissingDependencyError
    assert isinstance(error, ckptfmt.CkptError)
    print(error, "|", error.hint)
"""
    child = run_child(code)
    assert child.returncode == 0, child.stderr
    message, hint = child.stdout.split(" | ")
    assert message == "torch cannot be imported: No module named 'torch'"
    assert "pip install torch" in hint
    assert not (tmp_path / "y.ckpt").exists()
    assert not (tmp_path / "y.ckpt.partial").exists()


def test_at_the_prompt_it_is_one_line(checkpoint: Path) -> None:
    child = run_child(CLI, "load", checkpoint)
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == (
        "ckptfmt: torch cannot be imported: No module named 'torch' "
        '(pip install torch, or load with framework="numpy")\n'
    )
