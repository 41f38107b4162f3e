"""How tensors are cut for ranks: rules on their names, and what each makes of a tensor. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING, Any

from ckptfmt.dtypes import DTYPES
from ckptfmt.errors import OptionError
from ckptfmt.topology import Cut

if TYPE_CHECKING:
    from ckptfmt.write_plan import TensorSpec

#: What a rule may say. In a layer ``y = x W'`` of a weight ``[out, in]``, columns are outputs.
KINDS = ("colwise", "rowwise", "packed_colwise", "packed_rowwise", "replicate")
#: Of a packed weight whose rule does not tell its blocks (gates and what they let through).
PACKED_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with the tensors whose names match.

    Attributes
    ----------
    pattern : re.Pattern
        Matches whole names.
    kind : str
        One of `KINDS`.
    blocks : int or tuple of int
        How many equal blocks were packed into the weight, or what each takes of the dimension.
    note : str
        Why it stays whole, of kind ``replicate``.
    """

    pattern: re.Pattern[str]
    kind: str
    blocks: int | tuple[int, ...] = 1
    note: str = "whole by the plan"


@dataclass(slots=True)
class Cutting:
    """What became of tensors that were to be cut.

    Attributes
    ----------
    ranks : int
        How many.
    cuts : list of Cut or None
        For each tensor how it is cut; None if all ranks share it.
    whole : dict of str to list of str
        Why tensors are shared, and their names.
    """

    ranks: int
    cuts: list[Cut | None] = field(default_factory=list)
    whole: dict[str, list[str]] = field(default_factory=dict)

    @property
    def cut(self) -> int:
        """How many tensors are cut."""
        return sum(cut is not None for cut in self.cuts)


def parse_rules(given: Mapping[str, Any], where: str) -> list[Rule]:
    """Rules as people write them, in their order.

    Parameters
    ----------
    given : mapping
        Glob patterns on names of tensors; a kind for each, or
        ``{"kind": "packed_colwise", "blocks": [4096, 1024, 1024]}``.
    where : str
        For messages.

    Raises
    ------
    OptionError
        A rule that says something else.
    """
    rules = []
    for pattern, value in given.items():
        fields = dict(value) if isinstance(value, Mapping) else {"kind": value}
        kind = fields.pop("kind", None)
        blocks = fields.pop("blocks", PACKED_BLOCKS if str(kind).startswith("packed") else 1)
        if kind not in KINDS or fields:
            raise OptionError(
                f"{where}: the rule for {pattern!r} is {value!r}, expected one of "
                f"{', '.join(KINDS)}",
                hint='of a packed weight: {"kind": "packed_colwise", "blocks": 2}',
            )
        sizes = blocks if isinstance(blocks, Sequence) and not isinstance(blocks, str) else [blocks]
        if not sizes or not all(type(n) is int and n > 0 for n in sizes):
            raise OptionError(
                f"{where}: the rule for {pattern!r} has the blocks {blocks!r}, expected how many "
                f"there are, or a list of what each takes"
            )
        packed = blocks if isinstance(blocks, int) else tuple(sizes)
        rules.append(Rule(re.compile(translate(str(pattern))), str(kind), packed))
    return rules


def plan_cut(tensors: Sequence[TensorSpec], rules: Sequence[Rule], ranks: int) -> Cutting:
    """Decide for each tensor; the first rule that matches a name counts.

    Raises
    ------
    OptionError
        A rule tells blocks that a tensor does not have.
    """
    cutting = Cutting(ranks)
    for spec in tensors:
        found = _cut(spec, rules, ranks)
        cutting.cuts.append(None if isinstance(found, str) else found)
        if isinstance(found, str):
            cutting.whole.setdefault(found, []).append(spec.names[0])
    return cutting


def _cut(spec: TensorSpec, rules: Sequence[Rule], ranks: int) -> Cut | str:
    """How to cut one tensor, or why not."""
    matching = [
        next((rule for rule in rules if rule.pattern.match(name)), None) for name in spec.names
    ]
    given = [rule for rule in matching if rule is not None]
    if not given:
        return "no rule has their names"
    found = [_by_rule(spec, rule, ranks) for rule in given]
    if any(one != found[0] for one in found):
        return "tied under names with different rules"
    return found[0]


def _by_rule(spec: TensorSpec, rule: Rule, ranks: int) -> Cut | str:
    """How a rule cuts one tensor, or why it cannot."""
    shape, row = spec.shape, DTYPES[spec.dtype]
    is_rowwise = rule.kind.endswith("rowwise")
    dim = len(shape) - 1 if is_rowwise else max(len(shape) - 2, 0)
    why = ""
    if rule.kind == "replicate":
        why = rule.note
    elif not shape or not spec.nbytes:
        why = "scalars" if not shape else "without bytes"
    elif is_rowwise and len(shape) == 1:
        why = "vectors of row-wise modules, which every rank has"
    elif dim and (row.pack > 1 or row.bits < 8):
        why = f"{row.name} is packed, and cut along the first dimension only"
    return why or _in_blocks(spec, rule, dim, ranks)


def _in_blocks(spec: TensorSpec, rule: Rule, dim: int, ranks: int) -> Cut | str:
    """The cut along a dimension, or why not."""
    shape, total = spec.shape, spec.shape[dim]
    why = ""
    if isinstance(rule.blocks, int):
        blocks: tuple[int, ...] = (total // rule.blocks,) * rule.blocks
        why = f"not {rule.blocks} equal blocks" if total % rule.blocks else ""
    else:
        blocks = rule.blocks
        if sum(blocks) != total and len(shape) == 1:
            why = "vectors of another size than the rule's blocks"
        elif sum(blocks) != total:
            raise OptionError(
                f"tensor {spec.names[0]!r} has {total} in dimension {dim}, the blocks of its rule "
                f"are {' + '.join(map(str, blocks))}"
            )
    cut = Cut(dim, blocks)
    if not why and any(block % ranks for block in blocks):
        why = f"not divisible by {ranks}"
    if not why and cut.why_not(spec.dtype, shape, ranks):
        why = "a share would not be whole bytes"
    return why or cut
