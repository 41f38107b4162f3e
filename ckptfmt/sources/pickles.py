"""A pickle read as plain data: what it names is never imported or called, only noted.

Names that are expected become records, all others are refused. Before anything is made, the
operations are walked through: only those that data needs are allowed, and not too many of them.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

from ckptfmt.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection

#: Each makes one small object at most.
MAX_OPERATIONS = 20_000_000
_ALLOWED = frozenset("""
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT SETITEM SETITEMS DICT GLOBAL STACK_GLOBAL NEWOBJ REDUCE BUILD
""".split())  # noqa: SIM905 - a list of words


class Record:
    """An object as its pickle describes it: the name of its class, arguments and state."""

    __slots__ = ("arguments", "state")
    name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Record:
        self = object.__new__(cls)
        self.arguments = arguments
        self.state = None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(data: bytes, path: str, allowed: Collection[tuple[str, str]]) -> Any:
    """What a pickle holds, with a `Record` for each object of an allowed class.

    Parameters
    ----------
    data : bytes
        The pickle.
    path : str
        For messages.
    allowed : collection of (str, str)
        Module and name of what it may name; a name ``"*"`` allows all of that module.

    Raises
    ------
    SourceError
        It is damaged, or names something else: no code of it is run.
    """
    try:
        _walk(data)
        return _Unpickler(data, allowed).load()
    except (
        pickle.UnpicklingError, ValueError, TypeError, EOFError, IndexError, KeyError,
        AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise SourceError(
            f"{path}: cannot be read as plain data: {error}",
            hint="ckptfmt runs no code from a checkpoint; if it is whole, save it again",
        ) from error


def _walk(data: bytes) -> None:
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it has the operation {operation.name}")
        if count >= MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"it has more than {MAX_OPERATIONS} operations")
        # A slot far beyond the others would make the unpickler allocate all between.
        if operation.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"it remembers number {argument} as number {count}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: Collection[tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed = allowed
        self._records: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if not {(module, name), (module, "*")} & set(self._allowed):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        # Of this load alone: whatever a pickle does to a class is gone with it.
        full = f"{module}.{name}"
        if full not in self._records:
            self._records[full] = type(name, (Record,), {"__slots__": (), "name": full})
        return self._records[full]
