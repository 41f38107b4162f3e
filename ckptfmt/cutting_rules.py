"""Where rules for cutting come from: a file, or the model's own plan in transformers."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from ckptfmt.cutting import PACKED_BLOCKS, Rule, parse_rules
from ckptfmt.errors import MissingDependencyError, OptionError, SourceError, failing_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What any plan leaves out: embeddings and the head, along the vocabulary, as vLLM cuts them; and
#: experts that are stored one by one, where the plan speaks of all of them together.
_OURS = (
    (r"(?:.*\.)?(?:embed_tokens|word_embeddings|wte|lm_head)\.(?:weight|bias)", "colwise"),
    (r".*\.experts\.\d+\.(?:gate_proj|up_proj|w1|w3)\.(?:weight|bias)", "colwise"),
    (r".*\.experts\.\d+\.(?:down_proj|w2)\.(?:weight|bias)", "rowwise"),
)
HINT = "--tensor-parallel-plan FILE gives rules: docs/tensor_parallel.md"


def read_rules(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The rules in a file of JSON.

    Raises
    ------
    FileError
        It cannot be read.
    OptionError
        What is in it is no object of JSON.
    """
    name = os.fspath(path)
    with failing_as(name, "cannot be read"), open(name, "rb") as stream:
        data = stream.read()
    try:
        found: object = json.loads(data)
    except ValueError as error:
        raise OptionError(f"{name}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise OptionError(f"{name}: holds a {type(found).__name__}, expected rules by pattern")
    return found


def rules_of(given: Mapping[str, Any] | None, config: str | None) -> list[Rule]:
    """The rules that a person gave, else those of the model.

    Parameters
    ----------
    given : mapping or None
        As `parse_rules` takes them.
    config : str or None
        Path of the model's ``config.json``, if there is one.
    """
    if given is not None:
        return parse_rules(given, "the plan")
    if config is None:
        raise SourceError(
            "cannot be cut by the model's own plan: there is no config.json beside it", hint=HINT
        )
    return list(_of_model(config))


def _of_model(config: str) -> Iterator[Rule]:
    """Rules of the plan that transformers has for the model that a configuration names."""
    model_type = _model_type(config)
    plan = model_plan(model_type, config)
    for pattern, style in plan.items():
        yield Rule(_expression(pattern), *_kind(style))
    for expression, kind in _OURS:
        yield Rule(re.compile(rf"{expression}\Z"), kind)


def _model_type(config: str) -> str:
    with failing_as(config, "cannot be read"), open(config, "rb") as stream:
        data = stream.read()
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SourceError(f"{config}: cannot be read: {error}") from error
    name = found.get("model_type") if isinstance(found, dict) else None
    if not isinstance(name, str):
        raise SourceError(f"{config}: names no model_type, which the plan is found by", hint=HINT)
    return name


def model_plan(model_type: str, where: str) -> dict[str, str]:
    """``base_model_tp_plan`` of a type's configuration and of those within it, by module.

    Raises
    ------
    MissingDependencyError
        transformers is not installed.
    SourceError
        It does not know the type, or has no plan for it.
    """
    try:
        from transformers.models.auto.configuration_auto import (  # noqa: PLC0415
            CONFIG_MAPPING as mapping,
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"the plan of a model is in transformers, which cannot be imported: {error}",
            hint=f"pip install transformers, or: {HINT}",
        ) from error
    if model_type not in mapping:
        raise SourceError(f"{where}: transformers knows no model_type {model_type!r}", hint=HINT)
    plan: dict[str, str] = {}
    waiting, seen = [mapping[model_type]], set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, type) or one in seen:
            continue
        seen.add(one)
        plan.update(getattr(one, "base_model_tp_plan", None) or {})
        waiting += list((getattr(one, "sub_configs", None) or {}).values())
    if not plan:
        raise SourceError(f"{where}: transformers has no plan for {model_type!r}", hint=HINT)
    return plan


def _expression(pattern: str) -> re.Pattern[str]:
    """A plan names modules below the base model, or parameters; ``*`` is a number."""
    module = re.escape(pattern).replace(r"\*", r"\d+")
    return re.compile(rf"(?:.*\.)?{module}(?:\.(?:weight|bias))?\Z")


def _kind(style: str) -> tuple[str, int, str]:
    """A rule's kind, blocks and note for a style of transformers'."""
    name = style.removeprefix("local_")
    if name in ("colwise", "colwise_rep", "colwise_gather_output", "embedding_rowwise"):
        return "colwise", 1, ""
    if name in ("rowwise", "rowwise_rep", "rowwise_split_input", "embedding_colwise"):
        return "rowwise", 1, ""
    if name in ("packed_colwise", "packed_rowwise"):
        return name, PACKED_BLOCKS, ""
    return "replicate", 1, f"whole by the plan ({style})"
