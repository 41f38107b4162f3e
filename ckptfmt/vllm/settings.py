"""What ``model_loader_extra_config`` may say to the loader."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ckptfmt.checkpoint import STREAM_NBYTES
from ckptfmt.errors import OptionError
from ckptfmt.units import parse_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = "model_loader_extra_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys of ``model_loader_extra_config``, each with its default.

    Attributes
    ----------
    path : str or None
        The checkpoint, if it is not the folder that vLLM has as ``model``.
    max_nbytes : int
        Bound on what has been read and not yet been taken by the model, on its device. With units
        (``"1GB"``) where it is given as text.
    verify : bool or None
        Compare every byte read with its checksum. On if not given, where there are checksums.
    rank_state : str or None
        A checkpoint that `save_rank_state` has written: each rank reads its own tensors of it. If
        it does not fit, `path`, or what vLLM has as ``model``, is loaded by name.
    save_rank_state : str, dict or None
        A folder to be made: what each rank has loaded. Or a dict with it as ``path``, and options
        of ``ckptfmt.save_dict``: ``force``, ``workers``, ``alignment``, ``partition_size``.
    """

    path: str | None = None
    max_nbytes: int = STREAM_NBYTES
    verify: bool | None = None
    rank_state: str | None = None
    save_rank_state: str | dict[str, Any] | None = None

    @property
    def saving(self) -> dict[str, Any] | None:
        """`save_rank_state` as arguments: ``target``, and options."""
        given = self.save_rank_state
        if given is None:
            return None
        options = {"path": given} if isinstance(given, str) else dict(given)
        return {"target": options.pop("path"), **options}

    @classmethod
    def given(cls, extra: Any) -> Settings:
        """Check what a person wrote.

        Raises
        ------
        OptionError
            A key is not known, or a value is none that it can have. It is a ``ValueError``.
        """
        if not isinstance(extra, dict):
            raise OptionError(f"{WHERE} is a {type(extra).__name__}, expected a dict")
        known = [field.name for field in fields(cls)]
        unknown = [key for key in extra if key not in known]
        if unknown:
            raise OptionError(
                f"{WHERE} has {', '.join(map(repr, unknown))}, expected only "
                f"{', '.join(map(repr, known))}"
            )
        found = dict(extra)
        if isinstance(found.get("max_nbytes"), str):
            found["max_nbytes"] = parse_nbytes(found["max_nbytes"])
        for key, value in found.items():
            allows, expected = _ALLOWED[key]
            if not allows(value):
                raise OptionError(f"{WHERE}: {key} is {value!r}, expected {expected}")
        return cls(**found)


def _is_folder(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


#: What each key takes, and what an error calls it.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "path": (_is_folder, "the name of a folder"),
    # A bool is an int to Python, and no number of bytes.
    "max_nbytes": (lambda v: type(v) is int and v > 0, "bytes, more than 0"),
    "verify": (lambda v: v is None or isinstance(v, bool), "true or false"),
    "rank_state": (_is_folder, "the name of a folder"),
    "save_rank_state": (
        lambda v: _is_folder(v.get("path") or 0 if isinstance(v, dict) else v),
        "the name of a folder, or a dict with it as 'path'",
    ),
}
