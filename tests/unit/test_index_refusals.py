"""Every rule of the index has a case here that breaks it, and only it."""

from __future__ import annotations

import json

import pytest

from ckptfmt import index
from ckptfmt.errors import UnsupportedVersionError
from tests.helpers.indexes import (
    broken,
    decode,
    make_index,
    plain,
    put,
    refused,
    sized,
    small_index,
    spec,
)

# ---- versions and features ----


@pytest.mark.parametrize("version", [[2, 0], [2, 5], [65536, 0]])
def test_a_newer_version_is_refused_as_that(version: list[int]) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"needs format {version[0]}.{version[1]}"):
        decode(broken(put("version", value=version)))


def test_a_newer_version_need_not_have_our_fields() -> None:
    with pytest.raises(UnsupportedVersionError, match=r"needs format 3\.0") as caught:
        decode('{"format": "ckptfmt", "version": [3, 0], "tensors": {"a": 1}, "id": 5}')
    assert caught.value.hint == "pip install --upgrade ckptfmt"


@pytest.mark.parametrize("requires", [["ranks"], ["zstd", "ranks"], [""]])
def test_an_unknown_feature_is_refused_by_name(requires: list[str]) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        decode(broken(put("requires", value=requires)))
    assert repr(min(requires)) in str(caught.value)


def test_a_feature_is_named_before_anything_else_is_looked_at() -> None:
    with pytest.raises(UnsupportedVersionError, match="the feature 'ranks'"):
        decode('{"format": "ckptfmt", "version": [1, 0], "requires": ["ranks"], "tensors": 5}')


@pytest.mark.parametrize("major", [0, -1])
def test_a_version_before_the_first_does_not_exist(major: int) -> None:
    refused(broken(put("version", value=[major, 9])), f"format {major}.9 does not exist")


# ---- what is no index at all ----


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"null", b"[]", b"5", b'"ckptfmt"', b"{", b"{}", b"\xff\xfe{}",
        b"\xef\xbb\xbf{}", b'{"format": "ckptfmt"}', b'{"format": "ckptfmt", "version": [1, 0]}',
        b'{"format": "ckptfmt", "version": [1], "requires": []}',
        b'{"format": "ckptfmt", "version": "1.0", "requires": []}', b"\0" * 100,
        b'{"format": "other", "version": [1, 0]}', b'{"format": null}', b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_index_is_refused(text: bytes) -> None:
    refused(text, "not an index|format is|does not exist")


def test_more_after_the_end_is_refused() -> None:
    refused(index.encode(small_index()) + b"x", "not an index")
    refused(index.encode(small_index()) * 2, "not an index")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    good = index.encode(small_index())
    refused(good.replace(b'"embed"', b'"emb\xe9d"'), "not an index")
    refused(good.replace(b'"embed"', b'"emb\xed\xa0\x80"'), "not an index")
    refused(good.replace(b'"embed"', b'"\\ud800"'), "not an index")
    refused(good.replace(b'"pt"', b'"\xff"'), "not an index")


# How deep the decoder goes is the interpreter's matter: 1000 levels in 3.11, 10,000 in 3.13.
@pytest.mark.parametrize("depth", [20_000, 1_000_000])
@pytest.mark.parametrize("space", ["", " "])
def test_nesting_without_end_is_refused(depth: int, space: str) -> None:
    text = json.dumps(plain(small_index()))
    nested = text.replace('"rate": 0.5', f'"rate":{space}' + "[" * depth + "]" * depth)
    refused(nested, "not an index")


def test_an_index_larger_than_the_limit_is_refused_unread() -> None:
    refused(bytes(index.MAX_INDEX_NBYTES + 1), "268435457 bytes, at most 268435456")


# ---- keys and types ----

REQUIRED = [
    "format", "version", "requires", "id", "alignment", "block_nbytes", "partitions", "tensors",
]  # fmt: skip


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_field_is_named(key: str) -> None:
    expected = {"format": "format is ''", "version": r"format 0\.0 does not exist"}
    refused(broken(lambda f: f.pop(key)), expected.get(key, f"missing required field `{key}`"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("id",), 5), (("alignment",), 4096.0), (("alignment",), "4096"), (("alignment",), True),
        (("requires",), "ranks"), (("requires",), {}), (("partitions",), {}), (("tensors",), None),
        (("version",), [1, 0, 0]), (("version",), [1.5, 0]), (("metadata",), {"a": 1}),
        (("provenance",), []), (("tensors", 0), []), (("tensors", 0, "names"), "embed"),
        (("tensors", 0, "names", 0), None), (("tensors", 0, "shape"), 15),
        (("tensors", 0, "shape", 0), 3.0), (("tensors", 0, "shape", 0), False),
        (("tensors", 0, "extents"), None), (("tensors", 0, "extents", 0), [0, 4096]),
        (("tensors", 0, "extents", 0), {"partition": 0, "offset": 4096, "nbytes": 30}),
        (("tensors", 0, "dtype"), 5), (("partitions", 0), "part-00000.ckptfmt"),
        (("partitions", 0, "payload_nbytes"), "8192"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(path: tuple[str | int, ...], value: object) -> None:
    refused(broken(put(*path, value=value)), "not an index")


@pytest.mark.parametrize("written", ["typed", "indented"])
@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"alignment": 4096', '"alignment": 4096, "alignment": 4096'),
        ('"alignment": 4096', '"alignment": 8192, "alignment": 4096'),
        ('"alignment": 4096', '"align\\u006dent": 8192, "alignment": 4096'),
        ('"dtype": "BF16"', '"dtype": "F32", "dtype": "BF16"'),
        ('"format": "pt"', '"format": "tf", "format": "pt"'),
        ('"kind": "live"', '"kind": "live", "k\\u0069nd": "x"'),
        ('"rate": 0.5', '"rate": {"a": 1, "b": 2, "a": 3}'),
        ('"rate": 0.5', '"rate": 0.5, "added": [{"a": 1, "a": 1}]'),
    ],
)
def test_a_repeated_key_is_refused_however_it_is_spelled(
    written: str, once: str, twice: str
) -> None:
    text = json.dumps(plain(small_index()), indent=1 if written == "indented" else None)
    assert text.count(once) == 1
    refused(text.replace(once, twice), "stands twice in one object")


# ---- numbers ----

#: As text: Python itself writes no more than 4,300 digits.
BEYOND = {
    "limit + 1": str((1 << 62) + 1), "int64 + 1": str(1 << 63), "uint64 + 1": str(1 << 64),
    "100 bits": str(1 << 100), "4300 digits": "9" * 4300, "4301 digits": "9" * 4301, "-1": "-1",
    "int64 - 1": str(-(1 << 63) - 1), "-4300 digits": "-" + "9" * 4300,
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
@pytest.mark.parametrize(
    "path",
    [
        ("alignment",), ("block_nbytes",), ("partitions", 0, "payload_nbytes"),
        ("partitions", 0, "table_nbytes"), ("tensors", 0, "shape", 0),
        ("tensors", 2, "shape", 1), ("tensors", 0, "extents", 0, 0),
        ("tensors", 0, "extents", 0, 1), ("tensors", 0, "extents", 0, 2),
    ],
    ids=lambda path: ".".join(map(str, path)),
)  # fmt: skip
def test_numbers_beyond_the_limit_are_refused(path: tuple[str | int, ...], case: str) -> None:
    text = json.dumps(broken(put(*path, value="NUMBER")))
    refused(text.replace('"NUMBER"', BEYOND[case]), "not an index")


@pytest.mark.parametrize("text", ["1e5", "4096.0", "4.096e3", "NaN", "Infinity", "0x1000", "04096"])
def test_only_integers_are_sizes(text: str) -> None:
    good = json.dumps(plain(small_index()))
    refused(good.replace('"alignment": 4096', f'"alignment": {text}'), "not an index")


def test_sizes_whose_sum_leaves_64_bits_are_refused() -> None:
    specs = sized([1 << 61] * 9)
    made = make_index(specs, partition_nbytes=1 << 66)
    refused(index.encode(made), "not an index")
    made = make_index(specs, partition_nbytes=(1 << 61) + (1 << 50))
    refused(index.encode(made), "bytes of payload, at most 4611686018427387904")


@pytest.mark.parametrize("shape", [[1 << 31, 1 << 31, 2], [1 << 62, 2], [3] * 41, [1 << 62] * 64])
def test_a_tensor_larger_than_any_file_is_refused(shape: list[int]) -> None:
    refused(broken(put("tensors", 0, "shape", value=shape)), "larger than any file can be")


@pytest.mark.parametrize("shape", [[0, 1 << 62], [1 << 31, 0, 1 << 31], [1 << 40, 1 << 40, 0]])
def test_an_empty_tensor_has_no_dimensions_that_overflow_either(shape: list[int]) -> None:
    refused(broken(put("tensors", 2, "shape", value=shape)), "larger than any file can be")


# ---- the fields' own rules ----


@pytest.mark.parametrize("alignment", [0, 1, 512, 2048, 4097, 12288, 4 << 20, 1 << 40])
def test_alignment_is_a_power_of_two_within_limits(alignment: int) -> None:
    refused(broken(put("alignment", value=alignment)), f"alignment is {alignment}, expected")


@pytest.mark.parametrize("block", [0, 4096, (1 << 20) + 1, 2 << 20])
def test_the_block_is_fixed(block: int) -> None:
    refused(broken(put("block_nbytes", value=block)), f"block_nbytes is {block}, expected 1048576")


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, " " * 32, "٠" * 32])
def test_the_id_is_32_lower_case_hex_digits(text: str) -> None:
    refused(broken(put("id", value=text)), "expected 32 lower-case hex digits")


@pytest.mark.parametrize(
    "file",
    [
        "", ".", "..", "/etc/passwd", "../part-00000.ckptfmt", "./part-00000.ckptfmt",
        "a/part-00000.ckptfmt", "/part-00000.ckptfmt", "part-0.ckptfmt", "part-00001.ckptfmt",
        "part-00000.ckptfmt\0", "part-00000.ckptfmt/", "PART-00000.ckptfmt", "ckptfmt.json",
        "part-000000.ckptfmt", "part-٠٠٠٠٠.ckptfmt",
    ],
)  # fmt: skip
def test_no_path_but_the_partitions_own_name_is_taken(file: str) -> None:
    refused(broken(put("partitions", 0, "file", value=file)), "expected 'part-00000.ckptfmt'")


def test_swapped_partitions_are_refused() -> None:
    refused(broken(lambda f: f["partitions"].reverse()), "partition 0 is 'part-00002.ckptfmt'")


@pytest.mark.parametrize("dtype", ["", "f32", "F31", "torch.float32", "float32", "F32 ", "I128"])
def test_an_unknown_dtype_is_named(dtype: str) -> None:
    refused(broken(put("tensors", 0, "dtype", value=dtype)), f"has the dtype {dtype!r}")


def test_more_dimensions_than_the_limit_are_refused() -> None:
    assert decode(plain(make_index([spec("a", "U8", *[1] * 64)])))
    refused(broken(put("tensors", 1, "shape", value=[1] * 65)), "has the shape")


@pytest.mark.parametrize("shape", [[], [3], [2, 3], [2, 0, 1]])
def test_packed_dtypes_have_whole_bytes_in_their_last_dimension(shape: list[int]) -> None:
    fields = broken(put("tensors", 0, "shape", value=shape), spec("a", "F4", 4, 2))
    refused(fields, "must be a multiple of 2")


# ---- names ----


def test_a_name_stands_once_in_the_whole_index() -> None:
    refused(broken(put("tensors", 1, "names", value=["head"])), "name 'head' stands twice")
    refused(broken(put("tensors", 0, "names", value=["a", "b", "a"])), "name 'a' stands twice")
    refused(broken(put("tensors", 2, "names", value=["big"])), "name 'big' stands twice")


def test_every_tensor_has_a_name() -> None:
    refused(broken(put("tensors", 1, "names", value=[])), "a tensor has no name")


def test_more_names_than_the_limit_are_refused() -> None:
    names = tuple(f"{i:x}" for i in range(index.MAX_TENSORS + 1))
    refused(index.encode(make_index([spec(names, "U8", 0)])), "1000001 names, at most 1000000")


def test_more_tensors_than_the_limit_are_refused() -> None:
    text = json.dumps(plain(make_index([])))
    empty = '{"names":[],"dtype":"U8","shape":[0],"extents":[]}'
    tensors = ",".join([empty] * (index.MAX_TENSORS + 1))
    text = text.replace('"tensors": []', f'"tensors": [{tensors}]')
    refused(text, "1000001 tensors, at most 1000000")
