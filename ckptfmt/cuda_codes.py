"""What to do about error codes of the CUDA runtime: the next step for a person.

Names and texts are the runtime's own (cudaGetErrorName, cudaGetErrorString); codes are those of
``driver_types.h``.
"""

from __future__ import annotations

from ckptfmt import code_hints

_DEAD = (
    "the process's context is lost: start a new process; dmesg tells what the driver saw (Xid)"
)
HINTS: code_hints.Hints = (
    ((2,), "Host|calloc",
     "the system pins no more memory: set a smaller CKPTFMT_POOL_NBYTES, see ulimit -l, "
     "or CKPTFMT_CUDA_STAGING=D"),
    ((2,), ".*", "the device has no more memory: nvidia-smi tells who has it"),
    ((3, 35, 803, 804), ".*",
     "the driver does not serve this CUDA: nvidia-smi tells which it serves; install a newer "
     "driver, or a torch for an older CUDA"),
    ((46, 100, 101), ".*",
     "there is no such device, or another process has it for itself: see nvidia-smi and "
     "CUDA_VISIBLE_DEVICES"),
    ((712, 713), ".*",
     "something else in this process registers or releases the same memory: "
     "CKPTFMT_CUDA_STAGING=C does without"),
    ((801,), "HostRegister", "the system does not register memory: CKPTFMT_CUDA_STAGING=C does "
     "without"),
    ((214, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 999), ".*", _DEAD),
)  # fmt: skip

#: What torch makes of the codes that it is told of, as far as loads meet them.
_TOLD = {"out of memory": 2, "no CUDA-capable device": 100, "driver version is insufficient": 35}


def hint_for(code: int, call: str) -> str | None:
    """The next step after a call, such as ``cudaMemcpyAsync``; None if none is known."""
    return code_hints.find(HINTS, code, call)


def code_in(text: str) -> int:
    """The code behind an error's text as torch words it, 0 if it is none of those known."""
    return next((code for said, code in _TOLD.items() if said in text), 0)
