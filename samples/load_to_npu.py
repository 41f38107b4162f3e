"""Load a checkpoint onto one NPU, or spread over all of them.

    python samples/load_to_npu.py CHECKPOINT [DEVICE]

DEVICE is npu:0 if not given; auto takes all NPUs of the process. Needs torch_npu and CANN.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import ckptfmt

if TYPE_CHECKING:
    import torch


def main(path: str, device: str = "npu:0") -> None:
    """Load, say how the bytes came there, and use a tensor at once."""
    tensors = ckptfmt.load(path, device=device)
    stats = ckptfmt.load_stats()
    assert stats is not None  # None only before this thread's first load
    print(f"loaded {len(tensors)} tensors, {stats.gb_s:.2f} GB/s, limited by {stats.bottleneck}")
    print(f"staging {stats.staging}")
    for name, nbytes in sorted(bytes_by_device(tensors).items()):
        print(f"{name}: {nbytes} bytes")
    # Nothing has to be waited for: what is queued from here on comes after the load.
    largest = max(tensors.values(), key=lambda tensor: tensor.numel())
    print(f"a copy of the largest one is on {largest.clone().device}")


def bytes_by_device(tensors: dict[str, torch.Tensor]) -> Counter[str]:
    """Bytes on each device; tied names are one tensor and count once."""
    once = {(str(t.device), t.data_ptr()): t.numel() * t.element_size() for t in tensors.values()}
    found: Counter[str] = Counter()
    for (device, _), nbytes in once.items():
        found[device] += nbytes
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ckptfmt.CkptError as error:
        sys.exit(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
