"""Operators as torch_npu asks for them, without torch_npu."""

from __future__ import annotations

import ctypes
import struct
import time
from typing import Any

import pytest

from tests.simulator.conftest import Simulate
from tests.simulator.runtime import API_NOT_SUPPORT, INVALID_HANDLE, PARAM_INVALID, Runtime

FLOAT, FLOAT16, INT32, INT64, BF16 = 0, 1, 3, 9, 27
#: dtype, sizes, address, bytes
Tensor = tuple[int, tuple[int, ...], int, int]


def run(
    runtime: Runtime, name: str, inputs: list[Tensor], output: Tensor, stream: int | None
) -> int:
    """Queue an operator; what describes it is gone when the call returns."""
    library = runtime.library
    for function in ("aclCreateTensorDesc", "aclCreateDataBuffer"):
        getattr(library, function).restype = ctypes.c_void_p
    pointer = ctypes.c_void_p

    def describe(tensors: list[Tensor]) -> tuple[Any, Any]:
        descs, buffers = [], []
        for dtype, dims, address, nbytes in tensors:
            sizes = (ctypes.c_int64 * len(dims))(*dims)
            descs.append(library.aclCreateTensorDesc(dtype, len(dims), sizes, 2))
            buffers.append(library.aclCreateDataBuffer(pointer(address), ctypes.c_size_t(nbytes)))
        n = len(tensors)
        return (pointer * n)(*descs), (pointer * n)(*buffers)

    given, made = describe(inputs), describe([output])
    code = library.aclopCompileAndExecute(
        name.encode(), len(inputs), *given, 1, *made, None, 0, 0, None, pointer(stream)
    )
    for desc, buffer in (*zip(*given, strict=True), *zip(*made, strict=True)):
        library.aclDestroyTensorDesc(pointer(desc))
        assert library.aclDestroyDataBuffer(pointer(buffer)) == 0
    return int(code)


def floats(runtime: Runtime, *values: float) -> Tensor:
    data = struct.pack(f"<{len(values)}f", *values)
    address = runtime.malloc(len(data))
    runtime.write(address, data)
    return FLOAT, (len(values),), address, len(data)


def values_of(runtime: Runtime, tensor: Tensor) -> list[float]:
    return list(struct.unpack(f"<{tensor[3] // 4}f", runtime.read(*tensor[2:])))


@pytest.mark.parametrize(
    ("name", "expected"), [("Add", [11, 22, 33]), ("Sub", [-9, -18, -27]), ("Mul", [10, 40, 90])]
)
def test_arithmetic(simulate: Simulate, name: str, expected: list[float]) -> None:
    runtime = simulate()
    stream, out = runtime.stream(), floats(runtime, 0, 0, 0)
    a, b = floats(runtime, 1, 2, 3), floats(runtime, 10, 20, 30)
    assert run(runtime, name, [a, b], out, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert values_of(runtime, out) == expected
    assert runtime.account()["operators"] == 1


def test_an_operator_waits_for_its_turn_and_takes_its_time(simulate: Simulate) -> None:
    runtime = simulate(operator_us=20_000)
    stream, out = runtime.stream(), floats(runtime, 1, 2)
    with runtime.held(stream):
        assert run(runtime, "Add", [out, out], out, stream) == 0
        assert run(runtime, "Mul", [out, out], out, stream) == 0
        assert values_of(runtime, out) == [1, 2], "not yet"
        began = time.monotonic()
    runtime.ok("aclrtSynchronizeStream", stream)
    assert time.monotonic() - began >= 0.04
    assert values_of(runtime, out) == [4, 16]


def test_host_operands_are_read_at_once(simulate: Simulate) -> None:
    runtime = simulate()
    stream, out = runtime.stream(), floats(runtime, 0, 0)
    host = (ctypes.c_float * 1)(5)
    place = FLOAT, (1,), ctypes.addressof(host), 4
    with runtime.held(stream):
        assert run(runtime, "Add", [out, place], out, stream) == 0
        host[0] = 6
    runtime.ok("aclrtSynchronizeStream", stream)
    assert values_of(runtime, out) == [5, 5]


@pytest.mark.parametrize(
    ("dtype", "value", "bits"),
    [
        (FLOAT16, 1.0, 0x3C00), (FLOAT16, 65504.0, 0x7BFF), (FLOAT16, 65520.0, 0x7C00),
        (FLOAT16, 2049.0, 0x6800), (FLOAT16, 2051.0, 0x6802), (FLOAT16, 6e-8, 0x0001),
        (FLOAT16, -0.0, 0x8000), (FLOAT16, 2047.9999, 0x6800), (FLOAT16, 6.1e-5, 0x03FF),
        (BF16, 1.0, 0x3F80), (BF16, 1.00390625, 0x3F80), (BF16, 1.01171875, 0x3F82),
        (BF16, float("inf"), 0x7F80),
    ],
)  # fmt: skip
def test_rounding(simulate: Simulate, dtype: int, value: float, bits: int) -> None:
    """To the nearest, and to even between two."""
    runtime = simulate()
    stream, address = runtime.stream(), runtime.malloc(2)
    assert run(runtime, "Cast", [floats(runtime, value)], (dtype, (1,), address, 2), stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert struct.unpack("<H", runtime.read(address, 2))[0] == bits


def test_whole_numbers_stay_whole(simulate: Simulate) -> None:
    runtime = simulate()
    stream, address, value = runtime.stream(), runtime.malloc(8), (1 << 62) + 1
    runtime.write(address, struct.pack("<q", value))
    tensor = INT64, (1,), address, 8
    one = floats(runtime, 1)
    assert run(runtime, "OnesLike", [one], one, stream) == 0
    assert run(runtime, "Add", [tensor, tensor], tensor, stream) == 0
    runtime.ok("aclrtSynchronizeStream", stream)
    assert struct.unpack("<Q", runtime.read(address, 8))[0] == 2 * value
    assert values_of(runtime, one) == [1]


def test_what_is_not_simulated_is_refused(simulate: Simulate) -> None:
    runtime = simulate()
    stream, one = runtime.stream(), floats(runtime, 1)
    assert run(runtime, "MatMul", [one, one], one, stream) == API_NOT_SUPPORT
    assert run(runtime, "Add", [one], one, stream) == API_NOT_SUPPORT
    assert run(runtime, "Add", [one, one], one, 0x40) == INVALID_HANDLE


def test_operands_lie_in_their_allocations(simulate: Simulate) -> None:
    runtime = simulate()
    stream, (dtype, dims, address, nbytes) = runtime.stream(), floats(runtime, 1, 2)
    runtime.ok("aclrtFree", address)
    gone = dtype, dims, address, nbytes
    out = floats(runtime, 0, 0)
    assert run(runtime, "Add", [gone, out], out, stream) == PARAM_INVALID
    assert run(runtime, "Add", [out, out], gone, stream) == PARAM_INVALID


def test_an_operator_can_fail_when_it_runs(simulate: Simulate) -> None:
    runtime = simulate(fail="@aclopCompileAndExecute:1=507015")
    stream, one = runtime.stream(), floats(runtime, 3)
    assert run(runtime, "Add", [one, one], one, stream) == 0
    assert runtime.aclrtSynchronizeStream(stream) == 507015
    assert values_of(runtime, one) == [3]
