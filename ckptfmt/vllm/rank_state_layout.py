"""What a rank state was saved for, and whether that is what runs here.

Pure: texts and their comparison. Tensors that an engine has made of a model's weights fit only the
same engine, model and degree; nothing in their bytes tells.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import LoadMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Entries of a configuration that change with who read it, not with the model. Whether embeddings
#: are tied is changed by vLLM where a checkpoint has both, and seen by loading from their memory.
NOT_THE_MODEL = frozenset({
    "_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype",
    "_attn_implementation", "_attn_implementation_internal", "_experts_implementation",
    "_experts_implementation_internal", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "tie_word_embeddings",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Field:
    """One thing that has to be the same.

    Attributes
    ----------
    key : str
        Its name in the layout.
    called : str
        What a message calls it.
    hint : str
        What to do where it differs; ``{found}`` is what the rank state has.
    """

    key: str
    called: str
    hint: str


_AGAIN = "save it anew with what runs here"
_SAME = "it belongs to another model: name the one it was saved from, or save it anew"
#: In the order a person should hear of them: what differs first explains what differs after it.
FIELDS = (
    _Field("engine", "engine", "it was not saved by vLLM"),
    _Field("architecture", "model class", _SAME),
    _Field("config", "configuration of the model", _SAME),
    _Field("tensor_parallel", "tensor-parallel size",
           "load it with tensor_parallel_size={found}, or " + _AGAIN),
    _Field("pipeline_parallel", "pipeline-parallel size",
           "load it with pipeline_parallel_size={found}, or " + _AGAIN),
    _Field("data_parallel", "ranks that share one model's experts or context", _AGAIN),
    _Field("experts", "way to place experts", _AGAIN),
    _Field("version", "version of vLLM", _AGAIN),
    _Field("platform", "platform", _AGAIN),
    _Field("dtype", "dtype of the model", 'load it with dtype="{found}", or ' + _AGAIN),
    _Field("quantization", "quantization", _AGAIN),
)  # fmt: skip


def config_digest(config: Mapping[str, Any]) -> str:
    """A hash of what a configuration says of the model, and of nothing else."""
    text = json.dumps(_of_the_model(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_the_model(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _of_the_model(v) for k, v in value.items() if k not in NOT_THE_MODEL}
    if isinstance(value, (list, tuple)):
        return [_of_the_model(v) for v in value]
    return value


def differences(found: Mapping[str, str], here: Mapping[str, str]) -> list[_Field]:
    """What has to be the same and is not, in the order of `FIELDS`.

    Parameters
    ----------
    found, here : mapping of str to str
        Layouts: of the rank state, and of what runs here.
    """
    return [field for field in FIELDS if found.get(field.key) != here.get(field.key)]


def refuse_other(path: str, found: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuse a rank state that was saved for something else.

    Raises
    ------
    LoadMismatchError
        With all that differs, and what to do about the first of it.
    """
    wrong = differences(found, here)
    if not wrong:
        return
    told = "; ".join(
        f"the {field.called} is {found.get(field.key) or 'not told'}, "
        f"expected {here.get(field.key) or 'none'}"
        for field in wrong
    )
    raise LoadMismatchError(
        f"{path}: a rank state saved for something else: {told}",
        hint=wrong[0].hint.format(found=found.get(wrong[0].key, "?")),
    )


def part_path(target: str, rank: int, ranks: int) -> str:
    """Where a rank writes its own tensors before all are joined."""
    return f"{target.rstrip('/')}.rank-{rank:05d}-of-{ranks:05d}"
