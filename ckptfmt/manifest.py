"""A manifest: what is to be converted to what, and how. Reads a text, opens nothing."""

from __future__ import annotations

import difflib
import json
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ckptfmt.errors import CkptError, MissingDependencyError, OptionError
from ckptfmt.options import ConvertOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

YAML_SUFFIXES = (".yaml", ".yml")
JSON_SUFFIXES = (".jsonl", ".ndjson")


class Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an item may say beside its source and target: keywords of `convert`, with its kinds."""

    dtype: str = "keep"
    alignment: int | str = 0
    partition_size: int | str = 0
    include: str | list[str] = ""
    exclude: str | list[str] = ""
    workers: int | None = None
    force: bool = False
    resume: bool = True


#: Those whose values are checked here and now, before anything is begun.
CHECKED = Options.__struct_fields__


class AllOptions(Options, kw_only=True, forbid_unknown_fields=True):
    """The same, what cuts for ranks, and what is for sources on a hub."""

    tensor_parallel: int | None = None
    tensor_parallel_plan: dict[str, Any] | None = None
    hub: str | None = msgspec.field(default=None, name="from")
    revision: str | None = None
    stream: bool = False


class _Entry(AllOptions, kw_only=True, forbid_unknown_fields=True):
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One conversion of a manifest.

    Attributes
    ----------
    number : int
        Its place in the manifest, from 1.
    line : int
        Where it begins in the file, from 1.
    source : str
        As written: what `convert` takes, from the manifest's folder.
    target : str
        The folder to be made, joined to the manifest's.
    options : dict
        Keywords for `convert`: what the manifest gives, and ``resume`` unless it says otherwise.
    """

    number: int
    line: int
    source: str
    target: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Raw:
    """An entry as it was read: where, and what it says."""

    line: int
    value: Any


def parse(text: str, *, path: str, folder: str) -> list[Item]:
    """Read a manifest.

    Parameters
    ----------
    text : str
        YAML: ``items``, a list, and ``defaults`` if wanted; or the list alone. JSON lines: an item
        in each, before them ``{"defaults": {…}}`` if wanted.
    path : str
        Where it was read from, for messages; its suffix tells the kind.
    folder : str
        Where relative targets begin.

    Returns
    -------
    list of Item
        In order.

    Raises
    ------
    OptionError
        It cannot be read, has a key or value that is not allowed, two items with one target, or
        none at all. The message has the line.
    MissingDependencyError
        It is YAML, and PyYAML is not installed.
    """
    if path.endswith(YAML_SUFFIXES):
        defaults, entries = _read_yaml(text, path)
    elif path.endswith(JSON_SUFFIXES):
        defaults, entries = _read_json_lines(text, path)
    else:
        raise OptionError(
            f"{path}: neither {' nor '.join((*YAML_SUFFIXES, *JSON_SUFFIXES))}",
            hint="the name tells whether a manifest is YAML or JSON lines",
        )
    given: dict[str, Any] = {}
    if defaults is not None:
        _checked(defaults, AllOptions, f"{path}:{defaults.line}: defaults")
        given = defaults.value
    items = [_item(raw, number, given, path, folder) for number, raw in enumerate(entries, 1)]
    if not items:
        raise OptionError(f"{path}: has no items")
    _refuse_shared_targets(items, path)
    return items


def choose(items: Sequence[Item], numbers: Sequence[int]) -> list[Item]:
    """The items of these numbers, in the manifest's order; all if no number is given."""
    for number in numbers:
        if not 1 <= number <= len(items):
            raise OptionError(f"there is no item {number}, they go from 1 to {len(items)}")
    return [item for item in items if not numbers or item.number in numbers]


def _item(
    raw: _Raw, number: int, defaults: dict[str, Any], path: str, folder: str
) -> Item:
    where = f"{path}:{raw.line}: item {number}"
    if isinstance(raw.value, dict):
        raw = _Raw(raw.line, {**defaults, **raw.value})
    entry = _checked(raw, _Entry, where)
    for key in ("source", "target"):
        if not getattr(entry, key):
            raise OptionError(f"{where}: {key} is empty")
    names = zip(_Entry.__struct_encode_fields__, _Entry.__struct_fields__, strict=True)
    options = {
        name: getattr(entry, name)
        for key, name in names
        if key in raw.value and name not in ("source", "target")
    }
    return Item(
        number=number,
        line=raw.line,
        source=entry.source,
        target=posixpath.normpath(posixpath.join(folder, entry.target)),
        options={"resume": True, **options},
    )


def _checked(raw: _Raw, kind: type[Any], where: str) -> Any:
    """The entry as a record: keys that are known, values of their kinds, options that exist."""
    if not isinstance(raw.value, dict):
        found = type(raw.value).__name__  # not its text: that of aliases of aliases has no end
        raise OptionError(f"{where}: a {found}, expected keys with values")
    keys: tuple[str, ...] = kind.__struct_encode_fields__
    for key in raw.value:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1)
            raise OptionError(
                f"{where}: unknown key {key!r}",
                hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}",
            )
    try:
        entry = msgspec.convert(raw.value, kind)
    except msgspec.ValidationError as error:
        raise OptionError(f"{where}: {error}".replace("`$.", "`")) from error
    try:
        ConvertOptions.given(**{key: raw.value[key] for key in CHECKED if key in raw.value})
    except CkptError as error:
        raise OptionError(f"{where}: {error}", hint=error.hint) from error
    return entry


def _refuse_shared_targets(items: Sequence[Item], path: str) -> None:
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.target, item)
        if other is not item:
            raise OptionError(
                f"{path}:{item.line}: item {item.number}: the target {item.target} is that of "
                f"item {other.number}, line {other.line}"
            )


def _read_json_lines(text: str, path: str) -> tuple[_Raw | None, list[_Raw]]:
    entries: list[_Raw] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(_Raw(number, json.loads(line, object_pairs_hook=_unique)))
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{path}:{number}: not JSON: {error}") from error
    if entries and isinstance(entries[0].value, dict) and set(entries[0].value) == {"defaults"}:
        return _Raw(entries[0].line, entries[0].value["defaults"]), entries[1:]
    return None, entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _read_yaml(text: str, path: str) -> tuple[_Raw | None, list[_Raw]]:
    try:
        import yaml  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: to read YAML, PyYAML is needed: {error}",
            hint='pip install "ckptfmt[batch]", or write the manifest as JSON lines',
        ) from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            return _yaml_entries(loader, loader.get_single_node(), path)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise OptionError(f"{path}{line}: not YAML that can be read: {problem}") from error
    except RecursionError as error:
        raise OptionError(f"{path}: not YAML that can be read: nested too deeply") from error


def _yaml_entries(loader: Any, root: Any, path: str) -> tuple[_Raw | None, list[_Raw]]:
    """By nodes, not by values: these know their lines."""
    defaults, items = None, root
    if root is not None and root.id == "mapping":
        parts = {key.value: node for key, node in _yaml_pairs(root, path)}
        for key in parts:
            if key not in ("defaults", "items"):
                raise OptionError(
                    f"{path}:{root.start_mark.line + 1}: unknown key {key!r}",
                    hint="at the top stand items, a list, and defaults",
                )
        items = parts.get("items")
        if "defaults" in parts:
            defaults = _yaml_raw(loader, parts["defaults"], path)
    if items is None:
        return defaults, []
    if items.id != "sequence":
        raise OptionError(
            f"{path}:{items.start_mark.line + 1}: expected a list of items",
            hint="each begins with a dash: - source: …",
        )
    return defaults, [_yaml_raw(loader, node, path) for node in items.value]


def _yaml_raw(loader: Any, node: Any, path: str) -> _Raw:
    line = node.start_mark.line + 1
    if node.id == "mapping":
        list(_yaml_pairs(node, path))
    return _Raw(line, loader.construct_document(node))


def _yaml_pairs(node: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """The keys of a mapping with their nodes; YAML's own reader would keep the last of two."""
    seen: set[str] = set()
    for key, value in node.value:
        if key.id == "scalar":
            if key.value in seen:
                line = key.start_mark.line + 1
                raise OptionError(f"{path}:{line}: the key {key.value!r} stands there twice")
            seen.add(key.value)
            yield key, value
