"""What is CUDA's own: pools that are kept, contexts left alone, errors that stay behind."""

from __future__ import annotations

import ctypes
import errno
import os
from unittest import mock

import torch

import ckptfmt
from ckptfmt import machine, pool
from ckptfmt.devices import bring_up
from tests.helpers import cuda_fake
from tests.helpers.simulator import Simulator
from tests.npu.cases.expected import (
    D0,
    D1,
    MODULE,
    check_all,
    forget_probes,
    last_stats,
    load,
    path_of,
)  # fmt: skip

MiB = 1 << 20


def _calls(name: str) -> int:
    return int(Simulator().account()["calls"].get(name, 0))


def _registered() -> list[object]:
    return list(Simulator().account()["live"]["registered"])


def pool_is_kept() -> None:
    """Registered once for many loads, to either device; loads at the same time have their own."""
    at_first = len(_registered())  # what an earlier case had to abandon
    for device in (D1, D0):  # their probes
        load("large", device)
    before = _calls("cudaHostRegister")
    for device in (D0, D1, D0):
        check_all(load("large", device), "large", device)
    assert _calls("cudaHostRegister") == before
    load("large", {"": D0, "layers.1": D1})
    assert _calls("cudaHostRegister") == before + 1
    load("large", D0, pool_nbytes=32 * MiB, threads=8, op_nbytes=7 * MiB)
    assert len(_registered()) == at_first + 2
    pool.release_kept()
    assert len(_registered()) == at_first


def pool_is_bounded() -> None:
    """A load that is to have less than what is kept has less."""
    load("large", D0, pool_nbytes=64 * MiB, threads=8, depth=8, op_nbytes=7 * MiB, reads="direct")
    first = last_stats()
    load("large", D0, pool_nbytes=16 * MiB, threads=8, depth=8, op_nbytes=7 * MiB, reads="direct")
    stats = last_stats()
    assert stats.threads * 8 * MiB <= 16 * MiB, stats
    assert first.threads > stats.threads


def no_device_is_woken() -> None:
    """A load to one device has no part of another's memory, whichever is current."""
    account = Simulator().account()
    MODULE.set_device(0)
    cuda_fake.Stream.woken.clear()
    wanted = load("tiny", D1)
    with ckptfmt.open(path_of("tiny")) as checkpoint:
        dict(checkpoint.stream(device=D1, max_nbytes=2 * MiB))
    assert cuda_fake.Stream.woken == []
    assert MODULE.current_device() == 0
    check_all(wanted, "tiny", D1)
    after = Simulator().account()
    assert after["devices"][0]["memory"] == account["devices"][0]["memory"]


def torch_finds_no_error() -> None:
    """What the runtime refused us does not stay for torch to stumble upon."""
    Simulator().fail("cudaHostRegister:*=801")
    try:
        bring_up(D0).register(4096, 4096, "A")
    except ckptfmt.DeviceError as error:
        assert error.code == 801
        assert error.hint
    else:
        raise AssertionError("not refused")
    finally:
        Simulator().fail("")
    assert Simulator().library.cudaPeekAtLastError() == 0
    assert (torch.ones(3, device=D0) + 1).cpu().tolist() == [2.0, 2.0, 2.0]


def direct_storage(fault: str) -> None:
    """By a fake libcufile: the right bytes, or why not."""
    os.environ["FAKE_CUFILE"] = fault
    forget_probes()
    try:
        found = load("large", D1, staging="G", verify=False)
    except ckptfmt.OptionError as error:
        assert {"no driver": "driver is not there", "no file": "5027"}[fault] in str(error), error
        return
    except ckptfmt.FileError as error:
        assert (fault, error.errno) == ("fails", errno.EIO), error
        return
    finally:
        del os.environ["FAKE_CUFILE"]
    assert fault in ("", "short")
    check_all(found, "large", D1)
    stats = last_stats()
    assert stats.staging.startswith("G: "), stats.staging
    assert (stats.engine, stats.verified_nbytes) == ("cuFile", 0)
    check_all(
        load("large", {"": D0, "layers.1": D1}, staging="G", verify=False), "large",
        lambda name: D1 if name.startswith(("layers.1.", "head")) else D0,
    )  # fmt: skip
    for file in stats.files.values():
        assert file.direct_nbytes > 0 == file.buffered_nbytes, file


def direct_storage_verifies_nothing() -> None:
    """Bytes that nobody sees cannot be verified: refused rather than left out."""
    forget_probes()
    try:
        load("large", D1, staging="G")
    except ckptfmt.OptionError as error:
        assert "verify=False" in (error.hint or "")
    else:
        raise AssertionError("not refused")


def direct_storage_is_told() -> None:
    """What is there of it, in the statistics of any load."""
    forget_probes()
    load("tiny", D0)
    assert "GPUDirect Storage: no nvidia-fs driver" in last_stats().staging


def facts() -> None:
    """What ``ckptfmt load`` says of a GPU."""
    found = machine.device_facts(bring_up(D1))
    assert isinstance(found, machine.GpuFacts)
    assert (found.name, found.runtime, found.driver) == (D1, "13.0", "13.1")
    assert "libcudart" in found.library
    assert 0 < found.free_nbytes <= found.total_nbytes


def none_there() -> None:
    """No GPU at all."""
    with mock.patch.object(MODULE, "is_available", return_value=False):
        for device in (D0, "auto"):
            try:
                load("tiny", device)
            except ckptfmt.DeviceError as error:
                assert "finds 0 devices" in str(error), error
                assert "nvidia-smi" in (error.hint or "")
            else:
                raise AssertionError("there is none")
    assert ctypes.CDLL("libcudart.so.13") is not None
