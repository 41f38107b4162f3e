"""What names a repository, and what a path."""

from __future__ import annotations

import pytest

from ckptfmt.errors import OptionError
from ckptfmt.hub_address import HubAddress, parse_address


@pytest.mark.parametrize(("text", "hub", "expected"), [
    ("org/model", None, HubAddress("huggingface", "org/model")),
    ("org/model", "modelscope", HubAddress("modelscope", "org/model")),
    ("hf://org/model", None, HubAddress("huggingface", "org/model")),
    ("hf://org/model", "huggingface", HubAddress("huggingface", "org/model")),
    ("ms://Org_1/Model-2.5@v1", None, HubAddress("modelscope", "Org_1/Model-2.5", "v1")),
    ("org/model@refs/pr/3", None, HubAddress("huggingface", "org/model", "refs/pr/3")),
    ("./org/model", None, None), ("/org/model", None, None), ("model", None, None),
    ("a/b/c", None, None), ("../model", None, None), ("org/..", None, None), ("", None, None),
    ("org/mo del", None, None), ("org/model.safetensors/", None, None),
])  # fmt: skip
def test_what_is_an_address(text: str, hub: str | None, expected: HubAddress | None) -> None:
    assert parse_address(text, hub) == expected


@pytest.mark.parametrize(("text", "hub", "message"), [
    ("hf://model", None, "expected ORG/NAME"),
    ("hf://../model", None, "expected ORG/NAME"),
    ("hf://org/model/file", None, "expected ORG/NAME"),
    ("./model", "modelscope", "expected ORG/NAME"),
    ("https://hub/org/model", None, "the scheme is 'https', expected one of hf, ms"),
    ("ms://org/model", "huggingface", "is on modelscope, and the hub given beside it"),
    ("hf://org/model@", None, "expected a revision after it"),
    ("org/model", "elsewhere", "the hub is 'elsewhere'"),
])  # fmt: skip
def test_what_can_only_be_a_wrong_address(text: str, hub: str | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_address(text, hub)


@pytest.mark.parametrize("text", ["hf://org/model", "ms://org/model@v1"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_address(text, None)) == text
