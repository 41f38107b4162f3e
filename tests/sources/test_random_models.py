"""Random models, through every format: the same tensors come out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckptfmt
from tests.helpers.formats import FORMATS, Format, Tensors
from tests.helpers.models import random_tensor
from tests.sources.test_formats import same

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/."), min_size=1, max_size=12)


def models(form: Format) -> st.SearchStrategy[Tensors]:
    least = 0 if form.empty else 1
    shape = st.lists(st.integers(least, 9), min_size=1, max_size=4).map(tuple)
    tensor = st.builds(
        lambda shape, dtype, seed, turned: (
            random_tensor(shape, dtype, seed).permute(*reversed(range(len(shape))))
            if turned else random_tensor(shape, dtype, seed)
        ),
        shape, st.sampled_from(form.dtypes), st.integers(0, 99), st.booleans(),
    )  # fmt: skip
    return st.dictionaries(NAMES, tensor, min_size=1, max_size=6)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_random_model_comes_through(kind: str) -> None:
    form = FORMATS[kind]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(models(form))
    def check(tensors: Tensors) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = form.write(folder, tensors)
            ckptfmt.convert(source, folder / "x.ckpt", workers=2)
            found = ckptfmt.load(folder / "x.ckpt")
            assert same(found, {n: t.contiguous() for n, t in tensors.items()})
            assert ckptfmt.verify(folder / "x.ckpt", against=source).compared == len(tensors)

    check()
