"""Where rules come from: what a plan of transformers' says, and what is missing to have one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ckptfmt import cutting_rules
from ckptfmt.cutting import plan_cut
from ckptfmt.errors import MissingDependencyError, OptionError, SourceError
from ckptfmt.topology import Cut
from tests.helpers.indexes import spec

PLAN = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
    "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
    "layers.*.mlp.experts": "moe_tp_experts",
}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.11.self_attn.q_proj.weight", (8, 4), Cut(0, (8,))),
        ("layers.0.self_attn.q_proj.bias", (8,), Cut(0, (8,))),
        ("model.language_model.layers.0.self_attn.q_proj.weight", (8, 4), Cut(0, (8,))),
        ("model.layers.0.self_attn.o_proj.weight", (4, 8), Cut(1, (8,))),
        ("model.layers.0.mlp.experts.gate_up_proj", (3, 8, 4), Cut(1, (4, 4))),
        ("model.layers.0.mlp.experts.7.up_proj.weight", (8, 4), Cut(0, (8,))),
        ("model.layers.0.block_sparse_moe.experts.7.w2.weight", (4, 8), Cut(1, (8,))),
        ("model.embed_tokens.weight", (8, 4), Cut(0, (8,))),
        ("lm_head.weight", (8, 4), Cut(0, (8,))),
        ("lm_head.weight", (9, 4), "not divisible by 2"),
        ("model.layers.0.self_attn.q_proj.weight_scale", (8, 1), "no rule has their names"),
        ("model.mylayers.0.self_attn.q_proj.weight", (8, 4), "no rule has their names"),
        ("model.layers.x.self_attn.q_proj.weight", (8, 4), "no rule has their names"),
        (
            "model.layers.0.self_attn.k_norm.weight", (8,),
            "whole by the plan (replicated_with_grad_allreduce)",
        ),
    ],
)  # fmt: skip
def test_what_a_plan_makes_of_names(
    name: str, shape: tuple[int, ...], expected: Cut | str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "some"}')
    monkeypatch.setattr(cutting_rules, "model_plan", lambda model_type, where: PLAN)
    rules = cutting_rules.rules_of(None, str(tmp_path / "config.json"))
    found = plan_cut([spec(name, "BF16", *shape)], rules, 2)
    if isinstance(expected, Cut):
        assert (found.cuts, found.whole) == ([expected], {})
    else:
        assert (found.cuts, found.whole) == ([None], {expected: [name]})


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "names no model_type"), ('{"model_type": 3}', "names no")],
)
def test_a_configuration_that_tells_no_type_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        cutting_rules.rules_of(None, str(tmp_path / "config.json"))


def test_without_transformers_rules_are_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="transformers, which cannot") as caught:
        cutting_rules.rules_of(None, str(tmp_path / "config.json"))
    assert "--tensor-parallel-plan FILE" in str(caught.value.hint)


def test_rules_that_were_given_are_taken_as_they_are() -> None:
    (rule,) = cutting_rules.rules_of({"a*": "rowwise"}, None)
    assert (rule.kind, rule.pattern.match("abc") is not None) == ("rowwise", True)
    with pytest.raises(OptionError, match="the rule for 'a' is 'no'"):
        cutting_rules.rules_of({"a": "no"}, None)
