"""What differs between a checkpoint and the model it is loaded into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt.errors import LoadMismatchError
from ckptfmt.fill import listed
from ckptfmt.transformers import library

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def check(
    path: str,
    model: Any,
    told: Mapping[str, Any],
    shapes: Mapping[str, Any],
    left: Collection[str],
    taken: Collection[str],
    *,
    strict: bool,
) -> None:
    """Refuse a model that is not, to the last name, what is stored.

    Parameters
    ----------
    path : str
        The checkpoint.
    told : mapping
        What the library says of the load.
    shapes : mapping
        Of the checkpoint's tensors.
    left : collection of str
        The checkpoint's tensors that nobody asked for. Some versions of the library are silent
        about those of another head.
    taken : collection of str
        All names of the tensors that the model has. Of tied ones it may know one.
    strict : bool
        Whether names that only one of them has are errors. Shapes that differ always are.

    Raises
    ------
    LoadMismatchError
        Names all of them.
    """
    wrong = sorted(_difference(one, model, shapes) for one in told["mismatched_keys"])
    problems = listed("of another shape", wrong)
    missing = sorted(told["missing_keys"])
    if strict:
        unexpected = set(told["unexpected_keys"])
        if not unexpected and not wrong:
            unexpected = set(left) - set(library.ignored(model, iter(left)))
        problems += listed("missing in the checkpoint", missing)
        problems += listed("not in the model", sorted(unexpected - set(taken)))
    if problems:
        kind = type(model).__name__
        raise LoadMismatchError(
            f"{path}: not a {kind}: {'; '.join(problems)}",
            hint="config.json, or what was given instead, is of a model of another size" if wrong
            else "strict=False takes what both have, and initializes the rest; "
            "hf_model_class names another class",
        )


def raise_if_told(path: str, error: BaseException) -> None:
    """Raise what newer versions of the library say of tensors that cannot be joined, as such."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "conversion of the weights" in text:
        raise LoadMismatchError(
            f"{path}: its tensors cannot become the model's: {text}",
            hint="the log of transformers, above, has a table of them",
        ) from error


def _difference(told: Any, model: Any, shapes: Mapping[str, Any]) -> str:
    """Older versions of the library tell names alone, newer ones the shapes, too."""
    if not isinstance(told, str):
        name, here, wanted = told
    else:
        name, here, wanted = told, shapes.get(told), model.get_parameter_or_buffer(told).shape
    found = "another one" if here is None else list(here)
    return f"{name}: {found} here, {list(wanted)} in the model"
