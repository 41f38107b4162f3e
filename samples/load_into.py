"""Give a model that is in use other weights, in place: no second copy, nothing moves.

    python samples/load_into.py CHECKPOINT OTHER...

OTHER are checkpoints of the same model, such as later states of its training. Each is read into the
memory that the parameters have already, wherever that is: who holds on to them sees the new values.
"""

from __future__ import annotations

import sys

import ckptfmt
from ckptfmt.transformers import load_model


def main(path: str, *others: str) -> None:
    """Load the first, fill in the others one after the other."""
    model = load_model(path)
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    for other in others:
        with ckptfmt.open(other) as checkpoint:
            try:
                checkpoint.load_into(model)
            except ckptfmt.LoadMismatchError as error:
                sys.exit(f"nothing was changed: {error}")
            stats = checkpoint.load_stats()
        assert stats is not None
        now = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        assert now == places  # graphs that were captured, hooks and views stay valid
        print(f"{other}: {stats.nbytes} bytes in place, {stats.gb_s:.2f} GB/s")
    print(f"{len(places)} tensors where they were")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ckptfmt.CkptError as error:
        sys.exit(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
