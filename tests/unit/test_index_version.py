"""What stands in the place of a version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptfmt import index
from ckptfmt.errors import FormatError

TINY = Path(__file__).parents[1] / "golden" / "v1" / "tiny.ckpt" / "ckptfmt.json"


@pytest.mark.parametrize("version", [[1, -1], [-1, 0], [0, 0]])
def test_a_version_that_cannot_be_is_refused(version: list[int]) -> None:
    data = json.loads(TINY.read_text())
    data["version"] = version
    with pytest.raises(FormatError, match="does not exist"):
        index.decode(json.dumps(data).encode(), "here")
