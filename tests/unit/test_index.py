"""The index: what is encoded comes back, and what decodes needs no further doubt."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from ckptfmt import index
from ckptfmt.dtypes import DTYPES
from tests.helpers.indexes import MIB, check, decode, make_index, plain, sized, small_index, spec


def test_an_index_comes_back() -> None:
    made = small_index()
    found = decode(index.encode(made))
    assert found == made
    check(found)
    assert len(found.partitions) == 3
    assert [len(t.extents) for t in found.tensors] == [1, 1, 0, 2]
    assert found.nbytes == 30 + 4 + 3 * MIB + 17


def test_no_tensors_at_all_are_an_index_too() -> None:
    found = decode(index.encode(make_index([])))
    check(found)
    assert found.partitions == ()
    assert found.nbytes == 0


def test_only_empty_tensors_need_no_partition() -> None:
    found = decode(index.encode(make_index(sized([0, 0]))))
    check(found)
    assert found.partitions == ()


def test_every_dtype_comes_back() -> None:
    specs = [spec(name, name, 3, 8) for name in DTYPES]
    found = decode(index.encode(make_index(specs)))
    check(found)
    assert [t.nbytes for t in found.tensors] == [3 * DTYPES[s.dtype].bits for s in specs]


def test_encoding_gives_a_line_to_each_tensor_and_partition() -> None:
    made = small_index()
    lines = index.encode(made).decode().splitlines()
    assert lines[0] == "{"
    assert lines[-1] == "}"
    for tensor in made.tensors:
        (line,) = [x for x in lines if x.startswith('{"names":') and json.dumps(tensor.name) in x]
        assert json.loads(line.rstrip(","))["shape"] == list(tensor.shape)
    assert sum('"part-0' in x for x in lines) == len(made.partitions)


def test_encoding_does_not_depend_on_the_order_of_keys() -> None:
    a = make_index(sized([5]), metadata={"a": "1", "b": "2"}, provenance={"x": {"p": 1, "q": 2}})
    b = make_index(sized([5]), metadata={"b": "2", "a": "1"}, provenance={"x": {"q": 2, "p": 1}})
    assert index.encode(a) == index.encode(b)


NAMES = [
    "", " ", "a.b.c", "ü", "日本語", "🤗", "\0", "\n", "\t\r", '"', "\\", "\\n", "/",
    "../../etc/passwd", "a" * 10_000, "\u2028", "\ufeff", "\x7f", "\u0301", "e\u0301", "é",
]  # fmt: skip


def test_any_unicode_is_a_name() -> None:
    found = decode(index.encode(make_index([spec(name, "U8", 1) for name in NAMES])))
    assert [t.name for t in found.tensors] == NAMES


def test_blocks_are_in_table_order() -> None:
    blocks = [
        (tensor.name, extent.partition, offset, nbytes)
        for tensor, extent, offset, nbytes in small_index().blocks()
    ]
    assert blocks == [
        ("embed", 0, 4096, 30), ("scale", 0, 8192, 4), ("big", 1, 4096, MIB),
        ("big", 1, 4096 + MIB, MIB), ("big", 2, 4096, MIB), ("big", 2, 4096 + MIB, 17),
    ]  # fmt: skip


def test_what_a_minor_version_may_add_is_passed_over() -> None:
    made = small_index()
    fields = plain(made)
    fields["version"] = [1, 7]
    fields["added"] = {"anything": [1, 2.5, None]}
    fields["partitions"][0]["added"] = "x"
    fields["tensors"][0]["added"] = []
    fields["tensors"][0]["extents"][0].append("x")
    found = decode(fields)
    assert found.version == (1, 7)
    assert (found.partitions, found.tensors) == (made.partitions, made.tensors)


def test_metadata_and_provenance_may_be_left_out() -> None:
    fields = plain(small_index())
    del fields["metadata"], fields["provenance"]
    found = decode(fields)
    assert found.metadata == {}
    assert found.provenance == {}


@pytest.mark.parametrize(
    "spelled",
    [
        lambda fields: json.dumps(fields, indent=4),
        lambda fields: json.dumps(fields, separators=(",", ":")),
        lambda fields: json.dumps(dict(reversed(fields.items()))),
        lambda fields: json.dumps(fields, ensure_ascii=True).replace("embed", "\\u0065mbed"),
        lambda fields: "\n\t " + json.dumps(fields) + " \r\n",
    ],
    ids=["indented", "compact", "other order", "escaped", "white space"],
)
def test_another_writer_may_spell_it_otherwise(spelled: Callable[[object], str]) -> None:
    made = small_index()
    assert decode(spelled(plain(made))) == made


def test_our_own_spelling_is_checked_without_decoding_it_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The slow way takes seconds for 100,000 tensors.
    monkeypatch.setattr(index.json, "loads", lambda *_args, **_options: pytest.fail("slow way"))
    assert decode(index.encode(small_index())) == small_index()
    assert decode(index.encode(make_index([spec(name, "U8", 1) for name in NAMES])))


def test_the_slow_way_is_taken_for_another_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    data = msgspec.json.encode({**plain(small_index()), "added": 1})
    calls: list[int] = []
    loads = json.loads
    monkeypatch.setattr(index.json, "loads", lambda *a, **k: calls.append(1) or loads(*a, **k))
    decode(data)
    assert calls == [1]


def test_a_million_names_are_read() -> None:
    names = tuple(f"{i:x}" for i in range(index.MAX_TENSORS))
    found = decode(index.encode(make_index([spec(names, "U8", 0)])))
    assert len(found.tensors[0].names) == index.MAX_TENSORS
