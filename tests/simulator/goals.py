"""What real torch_npu has to be able to do on the simulator: run in a child, told as JSON."""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
import traceback
from collections.abc import Callable

from tests.helpers.simulator import Simulator

MiB = 1 << 20


def imports() -> None:
    """torch brings torch_npu with it."""
    import torch

    assert "torch_npu" in sys.modules
    assert torch.npu.is_available()
    assert torch.npu.device_count() == Simulator().account()["devices"][-1]["id"] + 1


def empties_have_addresses_of_the_simulator() -> None:
    import torch

    tensor = torch.empty(4096, dtype=torch.uint8, device="npu:0")
    live = Simulator().account()["live"]["device"]
    assert any(r["address"] <= tensor.data_ptr() < r["address"] + r["nbytes"] for r in live)
    assert tensor.data_ptr() % 512 == 0


def raw_copies_are_seen_by_torch() -> None:
    """On a stream of our own, made with the context that torch has made."""
    import torch

    acl = Simulator().library
    n = MiB
    tensor = torch.zeros(n, dtype=torch.uint8, device="npu:0")
    torch.npu.synchronize()
    expected = torch.randint(0, 256, (n,), dtype=torch.uint8)
    host, stream = ctypes.c_void_p(), ctypes.c_void_p()
    assert acl.aclrtMallocHost(ctypes.byref(host), ctypes.c_size_t(n)) == 0
    ctypes.memmove(host, expected.data_ptr(), n)
    assert acl.aclrtCreateStream(ctypes.byref(stream)) == 0
    for where in (stream, ctypes.c_void_p(torch.npu.current_stream().npu_stream)):
        tensor.zero_()
        torch.npu.synchronize()
        size = ctypes.c_size_t(n)
        code = acl.aclrtMemcpyAsync(ctypes.c_void_p(tensor.data_ptr()), size, host, size, 1, where)
        assert code == 0
        assert acl.aclrtSynchronizeStream(where) == 0
        assert torch.equal(tensor.cpu(), expected)
    assert acl.aclrtDestroyStream(stream) == 0
    assert acl.aclrtFreeHost(host) == 0


def raw_and_torch_streams_wait_for_each_other() -> None:
    import torch

    acl, n, late = Simulator().library, MiB, Simulator()
    handle = ctypes.c_void_p
    expected = torch.full((n,), 7, dtype=torch.uint8)
    tensor = torch.zeros(n, dtype=torch.uint8, device="npu:0")
    host, stream, event = handle(), handle(), handle()
    assert acl.aclrtMallocHost(ctypes.byref(host), ctypes.c_size_t(n)) == 0
    ctypes.memset(host, 7, n)
    assert acl.aclrtCreateStream(ctypes.byref(stream)) == 0
    assert acl.aclrtCreateEventWithFlag(ctypes.byref(event), 1) == 0
    late.set("delay_us", 100_000)
    try:
        tensor.zero_()  # queued before, must not come after
        assert acl.aclrtRecordEvent(event, handle(torch.npu.current_stream().npu_stream)) == 0
        assert acl.aclrtStreamWaitEvent(stream, event) == 0
        size = ctypes.c_size_t(n)
        assert acl.aclrtMemcpyAsync(handle(tensor.data_ptr()), size, host, size, 1, stream) == 0
        assert acl.aclrtRecordEvent(event, stream) == 0
        assert acl.aclrtStreamWaitEvent(handle(torch.npu.current_stream().npu_stream), event) == 0
        assert torch.equal(tensor.cpu(), expected)
    finally:
        late.set("delay_us", 0)
    assert acl.aclrtDestroyEvent(event) == 0
    assert acl.aclrtDestroyStream(stream) == 0
    assert acl.aclrtFreeHost(host) == 0


def views_show_the_same_bytes() -> None:
    import torch

    expected = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    raw = expected.npu()
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.complex64, torch.bool,
        torch.float8_e4m3fn, torch.float8_e5m2,
    ):  # fmt: skip
        assert torch.equal(raw.view(dtype).cpu().view(torch.uint8), expected), dtype
    values, reference = raw.view(torch.int16), expected.view(torch.int16)
    assert torch.equal(values.view(64, 32).cpu(), reference.view(64, 32))
    assert torch.equal(values.narrow(0, 10, 99).cpu(), reference.narrow(0, 10, 99))
    assert torch.equal(values[512:1024].view(16, 32)[3:5].cpu(), reference[608:672].view(2, 32))
    strided = (8, 16), (64, 2), 3
    assert torch.equal(values.as_strided(*strided).cpu(), reference.as_strided(*strided))
    held = torch.empty(0, dtype=torch.int16, device="npu:0")
    held.set_(values.untyped_storage(), 5, (20,), (1,))
    assert torch.equal(held.cpu(), reference[5:25])


def tensors_go_over_and_come_back() -> None:
    import torch

    source = torch.randn(300, 500)
    pinned = source.pin_memory()
    assert pinned.is_pinned()
    assert torch.equal(source.to("npu").cpu(), source)
    moved = pinned.to("npu", non_blocking=True)
    unpinned = source.to("npu", non_blocking=True)
    back = torch.empty(300, 500, pin_memory=True)
    back.copy_(moved, non_blocking=True)
    torch.npu.synchronize()
    assert torch.equal(back, source)
    assert torch.equal(unpinned.cpu(), source)
    assert torch.equal(source.to("npu", torch.float16).cpu(), source.half())
    assert float(moved[3, 4].item()) == float(source[3, 4])


def tensors_go_between_devices() -> None:
    import torch

    if torch.npu.device_count() < 2:
        return
    source = torch.randn(300, 500)
    there = source.npu(0).to("npu:1")
    assert there.device.index == 1
    assert torch.equal(there.cpu(), source)
    assert torch.equal(there.to("npu:0").cpu(), source)


def operators_compute() -> None:
    import torch

    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64):
        a = (torch.randn(40, 30) * 10).to(dtype)
        b = (torch.randn(30) * 10).to(dtype)
        x, y = a.npu(), b.npu()
        assert torch.equal((x + y).cpu(), a + b), dtype
        assert torch.equal((x * y).cpu(), a * b), dtype
        assert torch.equal(x.clone().add_(x).mul_(x).cpu(), a.clone().add_(a).mul_(a)), dtype
        assert torch.equal((x + 3).cpu(), a + 3), dtype
        assert torch.equal((x * 2).cpu(), a * 2), dtype
    assert torch.equal(torch.zeros(7, 5, device="npu").cpu(), torch.zeros(7, 5))
    assert torch.equal(torch.ones(7, device="npu").cpu(), torch.ones(7))
    assert torch.equal(torch.full((7,), 2.5, device="npu").cpu(), torch.full((7,), 2.5))
    image = torch.arange(24, dtype=torch.float32).view(2, 3, 4)
    assert torch.equal(image.npu().permute(2, 0, 1).contiguous().cpu(), image.permute(2, 0, 1))
    assert torch.equal(torch.cat([image.npu(), image.npu()], 1).cpu(), torch.cat([image, image], 1))
    assert torch.equal(image.npu()[:, 1:, 2:].clone().cpu(), image[:, 1:, 2:])
    assert torch.equal(image.npu().to(torch.float16).cpu(), image.half())
    assert torch.equal(image.npu(), image.npu())


def streams_and_events_work() -> None:
    import torch

    stream, start, end = torch.npu.Stream(), *(torch.npu.Event(enable_timing=True) for _ in "ab")
    source = torch.randn(MiB // 4).pin_memory()
    with torch.npu.stream(stream):
        start.record()
        tensor = source.to("npu", non_blocking=True)
        end.record()
    end.synchronize()
    assert end.query()
    assert stream.query()
    assert start.elapsed_time(end) >= 0
    torch.npu.current_stream().wait_stream(stream)
    assert torch.equal(tensor.cpu(), source)


def memory_is_limited_and_given_back() -> None:
    import torch

    properties = torch.npu.get_device_properties(0)
    free, total = torch.npu.mem_get_info(0)
    assert total == Simulator().account()["devices"][0]["memory"]
    assert properties.name == Simulator().account()["soc"]
    try:
        torch.empty(total + MiB, dtype=torch.uint8, device="npu")
    except torch.OutOfMemoryError:
        pass
    else:
        raise AssertionError("there is no such memory")
    before = torch.npu.mem_get_info(0)[0]
    held = torch.empty(64 * MiB, dtype=torch.uint8, device="npu")
    assert torch.npu.mem_get_info(0)[0] <= before - 64 * MiB
    del held
    torch.npu.empty_cache()
    assert torch.npu.mem_get_info(0)[0] >= free


def meta_modules_are_filled() -> None:
    import torch

    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 20, bias=False))
    expected = {name: torch.randn(p.shape) for name, p in module.state_dict().items()}
    buffer = torch.cat([tensor.flatten() for tensor in expected.values()]).npu()
    state, offset = {}, 0
    for name, tensor in expected.items():
        state[name] = buffer[offset : offset + tensor.numel()].view(tensor.shape)
        offset += tensor.numel()
    module.load_state_dict(state, assign=True)
    assert module[0].weight.data_ptr() == buffer.data_ptr()
    found = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with torch.device("meta"):
        other = torch.nn.Linear(3, 2)
    assert other.to_empty(device="npu").weight.device.type == "npu"


def safetensors_load_to_it() -> None:
    import torch
    from safetensors.torch import load_file, save_file

    expected = {"a": torch.randn(30, 40), "b": torch.randn(7).bfloat16()}
    with tempfile.TemporaryDirectory() as folder:
        save_file(expected, f"{folder}/model.safetensors")
        found = load_file(f"{folder}/model.safetensors", device="npu:0")
        torch.save(expected, f"{folder}/model.pt")
        again = torch.load(f"{folder}/model.pt", map_location="npu:0", weights_only=True)
    for name, tensor in expected.items():
        assert torch.equal(found[name].cpu(), tensor)
        assert torch.equal(again[name].cpu(), tensor)


def nothing_was_done_wrongly() -> None:
    import torch

    torch.npu.synchronize()
    found = Simulator().account()
    assert found["violations"] == []
    assert found["corrupted_copies"] == 0


GOALS: list[Callable[[], None]] = [
    imports, empties_have_addresses_of_the_simulator, raw_copies_are_seen_by_torch,
    raw_and_torch_streams_wait_for_each_other, views_show_the_same_bytes,
    tensors_go_over_and_come_back, tensors_go_between_devices, operators_compute,
    streams_and_events_work, memory_is_limited_and_given_back, meta_modules_are_filled,
    safetensors_load_to_it, nothing_was_done_wrongly,
]  # fmt: skip


def main() -> None:
    """Try all goals; for each, what went wrong, or nothing."""
    found = {}
    for goal in GOALS:
        try:
            goal()
        except Exception:
            found[goal.__name__] = traceback.format_exc()
        else:
            found[goal.__name__] = ""
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
