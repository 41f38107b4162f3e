"""Convert a checkpoint, verify it, load it, and say how fast that was.

    python samples/quickstart.py SOURCE TARGET

SOURCE is a folder with safetensors or torch weights, TARGET the folder to be made.
"""

from __future__ import annotations

import sys

import ckptfmt


def main(source: str, target: str) -> None:
    """Everything a first use needs. A call that cannot do its work raises a `ckptfmt.CkptError`."""
    report = ckptfmt.convert(source, target)
    print(f"{len(report.plan.tensors)} tensors, {report.nbytes} bytes, id {report.checkpoint_id}")

    found = ckptfmt.verify(target, against=source)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    print(f"verified {found.nbytes} bytes, {found.compared} tensors equal the source's")

    tensors = ckptfmt.load(target)  # dict of name to torch.Tensor, every byte verified
    stats = ckptfmt.load_stats()
    assert stats is not None  # None only before this thread's first load
    print(f"loaded {len(tensors)} tensors, {stats.gb_s:.2f} GB/s, by {stats.engine}")
    print(f"most of the time went into: {stats.bottleneck}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ckptfmt.CkptError as error:
        sys.exit(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
