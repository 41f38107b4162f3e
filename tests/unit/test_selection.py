"""Names and patterns: what a person means by them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ckptfmt.errors import TensorNotFoundError
from ckptfmt.selection import is_pattern, matcher, not_found, select

NAMES = [
    "embed.weight", "layers.0.attn.weight", "layers.0.attn.bias", "layers.1.attn.weight",
    "layers.10.attn.weight", "head.weight", "a[0]", "a0", "what?", "new\nline", "",
]  # fmt: skip
POSITIONS = {name: i for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("embed.weight", ["embed.weight"]),
        (["head.weight", "embed.weight"], ["embed.weight", "head.weight"]),
        (["embed.weight", "embed.weight"], ["embed.weight"]),
        ("layers.?.*.weight", ["layers.0.attn.weight", "layers.1.attn.weight"]),
        ("layers.[!0].*", ["layers.1.attn.weight"]),
        ("layers.1*", ["layers.1.attn.weight", "layers.10.attn.weight"]),
        ("*bias", ["layers.0.attn.bias"]),
        (["*bias", "head*", "embed.weight"], ["embed.weight", "layers.0.attn.bias", "head.weight"]),
        ("*", NAMES),
        ("?", None),
        ("", [""]),
        ("a[0]", ["a[0]"]),  # a text that is a name is one
        ("a[0-9]", ["a0"]),
        ("a[[]0]", ["a[0]"]),
        ("what?", ["what?"]),
        ("new*", ["new\nline"]),
        ("new?line", ["new\nline"]),
        ([], []),
        ((), []),
        (iter(["a0"]), ["a0"]),
    ],
)
def test_what_is_chosen(given: str | Iterable[str], chosen: list[str] | None) -> None:
    if chosen is None:
        with pytest.raises(TensorNotFoundError, match="no tensor name matches"):
            select(POSITIONS, given)
        return
    found = select(POSITIONS, given)
    assert list(found) == chosen
    assert all(found[name] == POSITIONS[name] for name in found)


def test_none_chooses_all() -> None:
    found = select(POSITIONS, None)
    assert found == POSITIONS
    assert found is not POSITIONS


def test_tied_names_are_chosen_one_by_one() -> None:
    assert select({"embed": 0, "head": 0, "norm": 1}, "head") == {"head": 0}


@pytest.mark.parametrize("text", ["Layers.0*", "EMBED.*", "*.weigh", "layers.[2-9]*", "*\n"])
def test_case_matters_and_patterns_match_whole_names(text: str) -> None:
    with pytest.raises(TensorNotFoundError, match="no tensor name matches"):
        select(POSITIONS, text)


def test_one_name_that_is_not_there_refuses_all() -> None:
    with pytest.raises(TensorNotFoundError, match=r"no tensor is named 'lost'"):
        select(POSITIONS, ["embed.weight", "lost"])


def test_near_matches_are_named() -> None:
    with pytest.raises(TensorNotFoundError) as caught:
        select(POSITIONS, "layers.0.atn.weight")
    assert str(caught.value) == "no tensor is named 'layers.0.atn.weight'"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("near matches: layers.0.attn.weight, ")


def test_no_near_match_points_to_the_list() -> None:
    assert not_found("zzz", NAMES).hint == "ckptfmt inspect lists the names"
    assert not_found("zzz", []).hint == "ckptfmt inspect lists the names"


def test_the_error_is_a_key_error_with_a_plain_message() -> None:
    error = not_found("zzz", NAMES)
    assert isinstance(error, KeyError)
    assert str(error) == "no tensor is named 'zzz'"  # KeyError alone would quote it again


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", False), ("a.b", False), ("a*", True), ("?", True), ("a[0]", True), ("]", False)],
)
def test_what_is_a_pattern(text: str, expected: bool) -> None:
    assert is_pattern(text) is expected


def test_several_patterns_in_one_expression() -> None:
    expression = matcher(["a*", "*.bias", "x[12]"])
    names = ["abc", "q.bias", "x1", "x3", "ba", "bias", "a\nb"]
    assert [n for n in names if expression.match(n)] == ["abc", "q.bias", "x1", "a\nb"]
