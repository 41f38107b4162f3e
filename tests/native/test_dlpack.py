"""DLPack capsules: a tensor of a region in one step, which owns the region from then on."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ckptfmt._core import Memory, Region, capsule

PAGE = 4096
INT, UINT, FLOAT, COMPLEX, BOOL = 0, 1, 2, 5, 6


class Exporter:
    """What numpy asks a capsule of."""

    def __init__(self, made: object) -> None:
        self.made = made

    def __dlpack__(self, **_: object) -> object:
        return self.made

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def taken(made: object) -> npt.NDArray[Any]:
    """The array of a capsule."""
    return np.from_dlpack(Exporter(made))  # type: ignore[arg-type]


def region_of(data: bytes) -> Region:
    region = Memory(max(len(data), 1)).region(0, len(data), len(data))
    memoryview(region)[:] = data
    return region


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(INT, "int8"), (INT, "int16"), (INT, "int32"), (INT, "int64"), (UINT, "uint8"),
     (UINT, "uint16"), (UINT, "uint32"), (UINT, "uint64"), (FLOAT, "float16"), (FLOAT, "float32"),
     (FLOAT, "float64"), (COMPLEX, "complex64"), (COMPLEX, "complex128"), (BOOL, "bool")],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1), ()])
def test_bytes_have_dtype_and_shape(code: int, dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    wanted = (np.arange(count) % 2).astype(dtype).reshape(shape)
    found = taken(capsule(region_of(wanted.tobytes()), code, wanted.dtype.itemsize * 8, shape))
    assert found.dtype == wanted.dtype
    assert found.shape == shape
    assert found.tobytes() == wanted.tobytes()


def test_the_array_is_the_regions_memory_and_keeps_it() -> None:
    memory = Memory(2 * PAGE)
    region = memory.region(PAGE, 8, PAGE)
    found = taken(capsule(region, UINT, 8, (8,)))
    memoryview(region)[:] = b"12345678"
    assert found.ctypes.data == memory.address + PAGE
    del memory, region
    gc.collect()
    assert found.tobytes() == b"12345678"


def test_pages_go_back_when_the_array_dies_in_whatever_thread() -> None:
    memory = Memory(2 * PAGE)
    whole = memoryview(memory.region(0, 2 * PAGE, 2 * PAGE))
    whole[:] = b"\x07" * (2 * PAGE)
    kept = [taken(capsule(memory.region(PAGE, PAGE, PAGE), UINT, 8, (PAGE,)))]
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert not any(whole[PAGE:])
    assert set(whole[:PAGE]) == {7}


def test_a_capsule_that_nobody_takes_gives_its_region_back() -> None:
    region = region_of(b"1234")
    before = sys.getrefcount(region)
    made = capsule(region, UINT, 8, (2, 2))
    assert sys.getrefcount(region) == before + 1
    del made
    assert sys.getrefcount(region) == before
    found = taken(capsule(region, UINT, 8, (4,)))
    assert sys.getrefcount(region) == before + 1
    del found
    assert sys.getrefcount(region) == before


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 3), (), (4, 0)])
def test_a_shape_of_other_than_the_regions_bytes_is_refused(shape: tuple[int, ...]) -> None:
    region = region_of(b"1234")
    before = sys.getrefcount(region)
    with pytest.raises(ValueError, match="not 4"):
        capsule(region, UINT, 8, shape)
    assert sys.getrefcount(region) == before


NO_SHAPES = [(-4,), (-2, -2), (1 << 62, 4), (1 << 32, 1 << 32, 0), (1 << 63,)]


@pytest.mark.parametrize("shape", NO_SHAPES)
def test_a_shape_that_no_tensor_has_is_refused(shape: tuple[int, ...]) -> None:
    """Products that wrap around might fit."""
    region = region_of(b"1234")
    with pytest.raises((ValueError, OverflowError)):
        capsule(region, UINT, 8, shape)


@pytest.mark.parametrize(
    ("given", "error"),
    [((None, UINT, 8, (4,)), TypeError), ((b"1234", UINT, 8, (4,)), TypeError),
     (("region", 256, 8, (4,)), OverflowError), (("region", UINT, -8, (4,)), OverflowError),
     (("region", UINT, 8, ("4",)), TypeError), (("region", UINT, 8, 4), TypeError)],
)  # fmt: skip
def test_what_is_no_argument(given: tuple[Any, ...], error: type[Exception]) -> None:
    region = region_of(b"1234")
    before = sys.getrefcount(region)
    with pytest.raises(error):
        capsule(region if given[0] == "region" else given[0], *given[1:])
    assert sys.getrefcount(region) == before
