"""What ``model_loader_extra_config`` may say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ckptfmt.errors import OptionError
from ckptfmt.vllm.settings import Settings


def test_nothing_said_gives_the_defaults() -> None:
    assert Settings.given({}) == Settings(path=None, max_nbytes=512 << 20, verify=None)


def test_what_is_said_is_taken() -> None:
    given = {"path": "/qwen.ckpt", "max_nbytes": "1GB", "verify": False}
    assert Settings.given(given) == Settings(path="/qwen.ckpt", max_nbytes=10**9, verify=False)
    assert Settings.given({"max_nbytes": 4096}).max_nbytes == 4096
    assert Settings.given({"path": None, "verify": None}) == Settings()


def test_unknown_keys_are_a_value_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match="model_loader_extra_config has 'pth', 'threads'") as found:
        Settings.given({"pth": "x", "path": "y", "threads": 4})
    assert isinstance(found.value, OptionError)
    assert str(found.value).endswith(
        "expected only 'path', 'max_nbytes', 'verify', 'rank_state', 'save_rank_state'"
    )


def test_what_is_to_be_saved_is_a_folder_or_a_dict_with_options() -> None:
    assert Settings.given({}).saving is None
    assert Settings.given({"save_rank_state": "state"}).saving == {"target": "state"}
    given = {"save_rank_state": {"path": "state", "force": True, "workers": 2}}
    assert Settings.given(given).saving == {"target": "state", "force": True, "workers": 2}
    assert given == {"save_rank_state": {"path": "state", "force": True, "workers": 2}}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("path=x", "is a str, expected a dict"),
        (None, "is a NoneType, expected a dict"),
        ({"path": ""}, "path is '', expected the name of a folder"),
        ({"path": 7}, "path is 7, expected the name of a folder"),
        ({"verify": 1}, "verify is 1, expected true or false"),
        ({"verify": "no"}, "verify is 'no', expected true or false"),
        ({"max_nbytes": 0}, "max_nbytes is 0, expected bytes, more than 0"),
        ({"max_nbytes": True}, "max_nbytes is True, expected bytes, more than 0"),
        ({"max_nbytes": 1.5}, "max_nbytes is 1.5, expected bytes, more than 0"),
        ({"rank_state": ["x"]}, "rank_state is ['x'], expected the name of a folder"),
        ({"save_rank_state": ""}, "save_rank_state is '', expected the name of a folder, or a"),
        ({"save_rank_state": {"force": True}}, "expected the name of a folder, or a dict with it"),
        ({"save_rank_state": {"path": None}}, "expected the name of a folder, or a dict with it"),
        ({"max_nbytes": "much"}, "'much' is not a byte count"),
    ],
)
def test_values_that_are_none_are_refused(extra: Any, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        Settings.given(extra)
