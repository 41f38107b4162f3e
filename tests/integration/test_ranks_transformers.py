"""Cut by the plan that the real transformers has for a model, in a Python of its own."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.helpers.fleet_python import MISSING, PYTHON, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

CODE = """
import json, sys
from pathlib import Path
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers import OPTConfig, OPTForCausalLM
import ckptfmt

folder = Path(sys.argv[1])
sizes = dict(
    vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=4,
)
models = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4)),
    "opt": lambda: OPTForCausalLM(OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, ffn_dim=64, num_attention_heads=4,
        word_embed_proj_dim=32,
    )),
}
told = {"transformers": transformers.__version__}
for name, make in models.items():
    model = make()
    model.save_pretrained(folder / name)
    try:
        report = ckptfmt.convert(folder / name, folder / f"{name}.ckpt", tensor_parallel=2)
    except ckptfmt.SourceError as error:
        told[name] = str(error)
        continue
    whole = ckptfmt.load(folder / f"{name}.ckpt")
    assert ckptfmt.verify(folder / f"{name}.ckpt", against=folder / name).ok
    total = ckptfmt.load_stats().nbytes
    shares, dims = [], {}
    for rank in range(2):
        with ckptfmt.open(folder / f"{name}.ckpt", rank=rank, tensor_parallel=2) as checkpoint:
            found = checkpoint.load()
            shares.append(checkpoint.load_stats().read_nbytes / total)
            for key, tensor in found.items():
                piece = checkpoint.cut_of(key)
                if piece is None:
                    assert torch.equal(tensor, whole[key])
                    continue
                dims[key] = piece.dim
                wanted = whole[key].narrow(piece.dim, piece.start, piece.stop - piece.start)
                assert torch.equal(tensor, wanted), key
    told[name] = {"shares": shares, "dims": dims, "whole": report.cutting.whole}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = subprocess.run(
        [PYTHON, "-c", CODE, tmp_path_factory.mktemp("models")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_a_llama_is_cut_by_its_plan(told: Any, name: str) -> None:
    """A rank reads at most 0.52 of all bytes, padding and all that it shares included."""
    assert max(told[name]["shares"]) <= 0.52
    columns, rows = "q_proj k_proj v_proj gate_proj up_proj", "o_proj down_proj"
    dims = {key.split(".")[-2]: dim for key, dim in told[name]["dims"].items()}
    head = {} if name == "tied" else {"lm_head": 0}
    assert dims == {
        "embed_tokens": 0, **head, **dict.fromkeys(columns.split(), 0),
        **dict.fromkeys(rows.split(), 1),
    }  # fmt: skip
    (names,) = told[name]["whole"].values()
    assert {key.split(".")[-2] for key in names} == {
        "input_layernorm", "post_attention_layernorm", "norm",
    }  # fmt: skip


def test_experts_are_cut_however_they_are_stored(told: Any) -> None:
    experts = {key: dim for key, dim in told["mixtral"]["dims"].items() if "experts" in key}
    assert experts
    assert {dim for key, dim in experts.items() if key.endswith(("w2.weight", "down_proj"))} <= {
        1, 2,
    }  # fmt: skip
    assert max(told["mixtral"]["shares"]) <= 0.55


def test_a_model_without_a_plan_says_so(told: Any) -> None:
    assert "transformers has no plan for 'opt'" in told["opt"]
