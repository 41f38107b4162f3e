"""Rules for cutting: what each makes of a tensor, and why others stay whole."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ckptfmt.cutting import Cutting, parse_rules, plan_cut
from ckptfmt.errors import OptionError
from ckptfmt.topology import Cut
from tests.helpers.indexes import spec

RULES = {
    "*.q_proj.*": "colwise",
    "*.o_proj.*": "rowwise",
    "*.gate_up.*": "packed_colwise",
    "*.qkv.*": {"kind": "packed_colwise", "blocks": [8, 2, 2]},
    "*.down.*": "packed_rowwise",
    "*.router.*": "replicate",
    "embed*": "colwise",
    "head*": "rowwise",
}


def cutting(*specs: Any, ranks: int = 2, rules: Any = RULES) -> Cutting:
    return plan_cut(specs, parse_rules(rules, "the plan"), ranks)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "expected"),
    [
        ("l.q_proj.weight", "BF16", (8, 3), Cut(0, (8,))),
        ("l.q_proj.bias", "BF16", (8,), Cut(0, (8,))),
        ("l.q_proj.experts", "BF16", (5, 8, 3), Cut(1, (8,))),
        ("l.o_proj.weight", "BF16", (3, 8), Cut(1, (8,))),
        ("l.o_proj.experts", "BF16", (5, 3, 8), Cut(2, (8,))),
        ("l.o_proj.bias", "BF16", (8,), "vectors of row-wise modules, which every rank has"),
        ("l.gate_up.weight", "F32", (8, 3), Cut(0, (4, 4))),
        ("l.gate_up.bias", "F32", (8,), Cut(0, (4, 4))),
        ("l.gate_up.weight", "F32", (7, 3), "not 2 equal blocks"),
        ("l.gate_up.weight", "F32", (6, 3), "not divisible by 2"),
        ("l.qkv.weight", "F32", (12, 3), Cut(0, (8, 2, 2))),
        ("l.qkv.bias", "F32", (12,), Cut(0, (8, 2, 2))),
        ("l.qkv.scale", "F32", (3,), "vectors of another size than the rule's blocks"),
        ("l.down.weight", "F32", (3, 8), Cut(1, (4, 4))),
        ("l.router.weight", "F32", (8, 8), "whole by the plan"),
        ("l.q_proj.weight", "BF16", (7, 3), "not divisible by 2"),
        ("l.q_proj.scale", "F32", (), "scalars"),
        ("l.q_proj.none", "F32", (0, 4), "without bytes"),
        ("l.norm.weight", "F32", (8,), "no rule has their names"),
        ("l.q_proj.weight", "F4", (4, 6), Cut(0, (4,))),
        ("l.o_proj.weight", "F4", (4, 8), "F4 is packed, and cut along the first dimension only"),
        ("l.q_proj.weight", "F6_E2M3", (2, 2), "a share would not be whole bytes"),
        ("l.q_proj.weight", "F8_E4M3", (2, 2), Cut(0, (2,))),
    ],
)
def test_what_a_rule_makes_of_a_tensor(
    name: str, dtype: str, shape: tuple[int, ...], expected: Cut | str
) -> None:
    found = cutting(spec(name, dtype, *shape))
    if isinstance(expected, Cut):
        assert (found.cuts, found.whole, found.cut) == ([expected], {}, 1)
    else:
        assert (found.cuts, found.whole, found.cut) == ([None], {expected: [name]}, 0)


def test_the_first_rule_that_matches_counts() -> None:
    rules = {"a.*": "replicate", "*": "colwise"}
    found = cutting(spec("a.w", "F32", 4), spec("b.w", "F32", 4), rules=rules)
    assert found.cuts == [None, Cut(0, (4,))]


def test_tied_names_are_cut_alike_or_not_at_all() -> None:
    both = spec(("embed", "other"), "F32", 4, 4)
    assert cutting(both).cuts == [Cut(0, (4,))]  # a rule for one of them
    found = cutting(spec(("embed", "head"), "F32", 4, 4))
    assert found.whole == {"tied under names with different rules": ["embed"]}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a": "columns"}, "the plan: the rule for 'a' is 'columns', expected one of colwise,"),
        ({"a": 3}, "the rule for 'a' is 3"),
        ({"a": {"kind": "colwise", "dim": 0}}, "the rule for 'a' is"),
        ({"a": {"blocks": 2}}, "the rule for 'a' is"),
        ({"a": {"kind": "colwise", "blocks": 0}}, "has the blocks 0"),
        ({"a": {"kind": "colwise", "blocks": []}}, "has the blocks []"),
        ({"a": {"kind": "colwise", "blocks": "two"}}, "has the blocks 'two'"),
        ({"a": {"kind": "colwise", "blocks": [2, True]}}, "has the blocks [2, True]"),
    ],
)
def test_rules_that_say_something_else_are_refused(rules: Any, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        parse_rules(rules, "the plan")


def test_blocks_that_a_tensor_does_not_have_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'l\.qkv\.weight' has 14 in dimension 0, the blocks of"):
        cutting(spec("l.qkv.weight", "F32", 14, 3))
