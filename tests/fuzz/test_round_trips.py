"""Any tensors, converted in any way, come back bit for bit by any way of loading."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptfmt
from ckptfmt.dtypes import DTYPES
from tests.helpers.models import equal_bits, random_tensor
from tests.helpers.mutations import fuzz_settings

# torch says so once, to whoever makes the first complex32 tensor.
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

TORCH_DTYPES = [
    getattr(torch, row.torch_name)
    for row in DTYPES.values()
    if row.torch_name is not None and hasattr(torch, row.torch_name)
]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SHAPES = st.one_of(
    st.lists(st.integers(0, 7), max_size=5),
    st.lists(st.integers(1, 300), min_size=1, max_size=2),
    st.sampled_from([[(1 << 20) + 1], [3, 700_001]]),
).map(tuple)
WAYS = st.sampled_from(
    [
        {}, {"verify": False}, {"mmap": True}, {"mmap": True, "verify": True},
        {"options": ckptfmt.LoadOptions(reads="buffered", threads=2)},
        {"options": ckptfmt.LoadOptions(reads="direct", io="pread", op_nbytes=1 << 20)},
        {"options": ckptfmt.LoadOptions(reads="direct", depth=2)},
    ]
)  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors under any names; some share memory, some are views with strides of their own."""
    made: dict[str, torch.Tensor] = {}
    for i, name in enumerate(draw(st.lists(NAMES, unique=True, max_size=8))):
        kind = draw(st.integers(0, 6))
        if made and kind == 0:  # tied
            made[name] = made[draw(st.sampled_from(sorted(made)))]
        elif made and kind == 1:  # a part of another, which is no tie
            made[name] = made[draw(st.sampled_from(sorted(made)))].flatten()[1:]
        elif kind == 2:
            dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.complex64]))
            made[name] = random_tensor((6, 50, 700), dtype, seed=i).permute(2, 0, 1)[::2, 1:]
        else:
            dtype = draw(st.sampled_from(TORCH_DTYPES))
            tensor = random_tensor(draw(SHAPES), dtype, seed=i)
            if dtype is torch.float4_e2m1fn_x2 and not tensor.dim():
                tensor = tensor.view(1)  # two elements are no scalar
            made[name] = tensor
    return made


@settings(fuzz_settings, max_examples=100)
@given(
    model=models(),
    alignment=st.sampled_from([4096, 8192, 65536, 2 << 20]),
    small=st.booleans(),
    workers=st.integers(1, 3),
    ways=st.lists(WAYS, min_size=1, max_size=3),
    data=st.data(),
)
def test_what_went_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    model: dict[str, torch.Tensor],
    alignment: int,
    small: bool,
    workers: int,
    ways: list[dict[str, object]],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    target: Path = folder / "m.ckpt"
    try:
        size = 2 * alignment + (2 << 20) if small else 1 << 30
        ckptfmt.convert(
            model, target, alignment=alignment, partition_size=size, workers=workers
        )
        assert ckptfmt.verify(target).ok
        with ckptfmt.open(target) as checkpoint:
            assert set(checkpoint.names) == set(model)
            for way in ways:
                check(checkpoint.load(**way), model)
            bound = data.draw(st.sampled_from([1, 1 << 22]), "bound of the stream")
            check(dict(checkpoint.stream(max_nbytes=bound)), model)
            some = data.draw(st.sets(st.sampled_from(sorted(model)))) if model else set()
            found = checkpoint.load(list(some), **data.draw(WAYS))
            check(found, {name: model[name] for name in some})
            blank = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in model.items()}
            checkpoint.load_into(blank)
            check(blank, model)
    finally:
        shutil.rmtree(folder)


def check(found: dict[str, torch.Tensor], model: dict[str, torch.Tensor]) -> None:
    """The same names and bits, and ties between the same names."""
    assert set(found) == set(model)
    for name, tensor in model.items():
        assert equal_bits(found[name], tensor), name
