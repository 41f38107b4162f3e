"""What test_aarch64.sh wants to see before the tests: the right code runs, and a round trip works.

    python scripts/check_aarch64.py FOLDER_OF_THE_BUILD
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import ckptfmt
from ckptfmt import _core
from ckptfmt.engine import choose_io, io_uring_errno


def expect(what: str, found: object, wanted: object) -> None:
    """Say what was found; leave if it is not what is wanted."""
    print(f"{what}: {found}")
    if found != wanted:
        sys.exit(f"expected {wanted}")


def main(folder: str) -> None:
    """Check the machine, the build, the checksums, the way of reading, and one round trip."""
    expect("machine", platform.machine(), "aarch64")
    expect("extensions", Path(_core.__file__).is_relative_to(folder), True)
    expect("crc32c", _core.crc32c_implementation(), "armv8-crc")
    # Lengths around every run that the hardware version joins, at every alignment of a word.
    data = np.random.default_rng(1).integers(0, 256, 70_000, np.uint8).tobytes()
    lengths = [*range(70), *range(760, 780), *range(12_280, 12_300), 65_536]
    different = [
        (start, length)
        for length in lengths
        for start in range(8)
        for piece in [data[start : start + length]]
        if _core.crc32c(piece) != _core.crc32c(piece, implementation="table")
    ]
    expect("checksums other than the table's", different, [])
    expect("known checksum", f"{_core.crc32c(b'123456789'):08x}", "e3069283")

    io, reason = choose_io(ckptfmt.LoadOptions())
    print(f"engine: {io} ({reason})")
    if io_uring_errno() != 0:  # qemu's user emulation has none
        expect("reads by", io, "pread")
        expect("says why", reason.startswith("io_uring: "), True)

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "model.safetensors"), Path(name, "model.ckpt")
        tensors = {"a": np.arange(3_000_001, dtype=np.float32), "b": np.ones((3, 5), np.float16)}
        save_file(tensors, source)
        ckptfmt.convert(source, target)
        found = ckptfmt.load(target, framework="numpy")
        expect("tensors", sorted(found), sorted(tensors))
        equal = all(found[key].tobytes() == tensors[key].tobytes() for key in tensors)
        expect("loaded as stored", equal, True)
        expect("verify", ckptfmt.verify(target, against=source).ok, True)


if __name__ == "__main__":
    main(sys.argv[1])
