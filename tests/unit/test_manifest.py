"""Manifests: both kinds say the same, and whatever is wrong is named with its line."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from ckptfmt.errors import MissingDependencyError, OptionError
from ckptfmt.manifest import Item, choose, parse

YAML = """\
# What we serve.
defaults: &common
  dtype: fp16
  exclude: ["*.bias"]
items:
  - source: models/a
    target: out/a.ckpt

  - {source: Qwen/Qwen2.5-3B-Instruct, target: /data/b.ckpt, dtype: keep, workers: 2}
  - source: ../c
    target: out/../c.ckpt
    force: true
    resume: false
    partition_size: 1GiB
"""
JSON = """\
{"defaults": {"dtype": "fp16", "exclude": ["*.bias"]}}
{"source": "models/a", "target": "out/a.ckpt"}

{"source": "Qwen/Qwen2.5-3B-Instruct", "target": "/data/b.ckpt", "dtype": "keep", "workers": 2}
{"source": "../c", "target": "out/../c.ckpt", "force": true, "resume": false, \
"partition_size": "1GiB"}
"""
COMMON: dict[str, Any] = {"resume": True, "dtype": "fp16", "exclude": ["*.bias"]}


def read(text: str, name: str = "m.yaml") -> list[Item]:
    """A manifest in a folder."""
    return parse(text, path=name, folder="/jobs")


def refused(text: str, name: str = "m.jsonl") -> OptionError:
    """What is said of a manifest."""
    with pytest.raises(OptionError) as caught:
        read(text, name)
    return caught.value


def line(**entry: object) -> str:
    """One of JSON lines."""
    return json.dumps({"source": "s", "target": "t", **entry}) + "\n"


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [(YAML, "m.yaml", (6, 9, 10)), (YAML, "m.yml", (6, 9, 10)), (JSON, "m.jsonl", (2, 4, 5)),
     (JSON, "m.ndjson", (2, 4, 5))],
)  # fmt: skip
def test_both_kinds_say_the_same(text: str, name: str, lines: tuple[int, ...]) -> None:
    items = read(text, name)
    assert [item.line for item in items] == list(lines)
    assert [(i.number, i.source, i.target, i.options) for i in items] == [
        (1, "models/a", "/jobs/out/a.ckpt", COMMON),
        (2, "Qwen/Qwen2.5-3B-Instruct", "/data/b.ckpt", {**COMMON, "dtype": "keep", "workers": 2}),
        (3, "../c", "/jobs/c.ckpt",
         {**COMMON, "force": True, "resume": False, "partition_size": "1GiB"}),
    ]  # fmt: skip


def test_a_list_alone_is_a_manifest_and_so_are_merged_keys() -> None:
    text = "- &a {source: a, target: b, dtype: fp16}\n- <<: *a\n  target: c\n"
    assert [i.target for i in read(text)] == ["/jobs/b", "/jobs/c"]
    assert read(text)[1].options == {"resume": True, "dtype": "fp16"}


@pytest.mark.parametrize(("text", "message", "hint"), [
    (line() + line(target="u", dtyp="fp16"), "m.jsonl:2: item 2: unknown key 'dtyp'",
     "did you mean dtype?"),
    (line(zzz=1), "m.jsonl:1: item 1: unknown key 'zzz'", "known are "),
    (line(workers="2"), "m.jsonl:1: item 1: Expected `int | null`, got `str` - at `workers`", None),
    (line(workers=0), "m.jsonl:1: item 1: workers is 0", None),
    (line(force="yes"), "m.jsonl:1: item 1: Expected `bool`, got `str` - at `force`", None),
    (line(dtype="fp17"), "m.jsonl:1: item 1: ", ""),
    (line(alignment="3KiB"), "m.jsonl:1: item 1: alignment 3072 is no power of two", ""),
    (line(partition_size="many"), "m.jsonl:1: item 1: 'many' is not a byte count", ""),
    (line(source=""), "m.jsonl:1: item 1: source is empty", None),
    ('{"source": "s"}\n', "m.jsonl:1: item 1: Object missing required field `target`", None),
    ("[1]\n", "m.jsonl:1: item 1: a list, expected keys with values", None),
    ("\n{oh\n", "m.jsonl:2: not JSON: ", None),
    ('{"source": "s", "source": "s", "target": "t"}', "m.jsonl:1: not JSON: the key 'source' "
     "stands there twice", None),
    (line() + "\n" + line(), "m.jsonl:3: item 2: the target /jobs/t is that of item 1, line 1",
     None),
    (line() + line(target="u/../t"), "m.jsonl:2: item 2: the target /jobs/t is that of", None),
    ('{"defaults": {"source": "s"}}\n' + line(), "m.jsonl:1: defaults: unknown key 'source'", ""),
    ('{"defaults": {"dtype": 3}}\n' + line(), "m.jsonl:1: defaults: Expected `str`", None),
    ('{"defaults": [3]}\n' + line(), "m.jsonl:1: defaults: a list, expected keys", None),
    (line() + '{"defaults": {}}\n', "m.jsonl:2: item 2: unknown key 'defaults'", ""),
    ("", "m.jsonl: has no items", None),
])  # fmt: skip
def test_json_lines_that_are_wrong(text: str, message: str, hint: str | None) -> None:
    error = refused(text)
    assert str(error).startswith(message)
    assert (error.hint is None) if hint is None else str(error.hint or "").startswith(hint)


@pytest.mark.parametrize(("text", "message"), [
    ("items:\n  - source: s\n    target: t\n    dtyp: fp16\n", "m.yaml:2: item 1: unknown key"),
    ("items:\n  - source: s\n    target: t\n    source: u\n", "m.yaml:4: the key 'source' stands"),
    ("item:\n  - source: s\n", "m.yaml:1: unknown key 'item'"),
    ("items:\n  source: s\n", "m.yaml:2: expected a list of items"),
    ("text", "m.yaml:1: expected a list of items"),
    ("items:\n", "m.yaml:1: expected a list of items"),
    ("", "m.yaml: has no items"),
    ("- source: [s\n", "m.yaml:2: not YAML that can be read: "),
    ("- !!python/object/apply:os.getcwd []\n", "m.yaml:1: not YAML that can be read: could not "),
    ("- source: 2026-01-01\n  target: t\n", "m.yaml:1: item 1: Expected `str`, got "),
    ("- ? [a, b]\n  : c\n", "m.yaml:1: not YAML that can be read: "),
    ("a: 1\n---\nb: 2\n", "m.yaml:2: not YAML that can be read: "),
    ("defaults: 3\nitems: []\n", "m.yaml:1: defaults: a int, expected keys with values"),
])  # fmt: skip
def test_yaml_that_is_wrong(text: str, message: str) -> None:
    assert str(refused(text, "m.yaml")).startswith(message)


@pytest.mark.parametrize(("name", "text"), [
    ("m.jsonl", "[" * 100_000), ("m.yaml", "[" * 5_000),
    # Ten aliases of ten aliases …: 10 to the 9th values, none of which is ever made a text.
    ("m.yaml", "- &a0 [x]\n" + "".join(
        f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))),
])  # fmt: skip
def test_bombs_are_refused_at_once(name: str, text: str) -> None:
    assert len(str(refused(text, name))) < 200


def test_other_names_are_refused() -> None:
    assert "neither .yaml nor .yml nor .jsonl nor .ndjson" in str(refused(JSON, "m.json"))


def test_yaml_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="PyYAML is needed") as caught:
        read(YAML)
    assert 'pip install "ckptfmt[batch]"' in str(caught.value.hint)
    assert len(read(JSON, "m.jsonl")) == 3


def test_items_are_chosen_by_number() -> None:
    items = read(JSON, "m.jsonl")
    assert choose(items, ()) == items
    assert [item.number for item in choose(items, (3, 1, 3))] == [1, 3]
    with pytest.raises(OptionError, match="there is no item 4, they go from 1 to 3"):
        choose(items, (1, 4))
