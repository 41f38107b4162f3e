"""A checkpoint for the self-test: what loads find difficult, in as many bytes as are wanted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes
from ckptfmt.conversion import convert
from ckptfmt.errors import OptionError
from ckptfmt.units import format_nbytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.dtypes import Dtype

MIN_NBYTES = 8 << 20
#: The large tensors, as shares of the whole: 256, 256, 192, 128 and 64 MiB of 1 GiB.
LARGE = (1 / 4, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
#: Small tensors, and their share of the whole.
SMALL, SMALL_SHARE = 2000, 1 / 8
#: Around the borders that loads know: sectors, pages, blocks and allocations of their own.
EDGES = (1, 7, 511, 512, 513, 4095, 4096, 4097, (1 << 20) - 4, 1 << 20, (1 << 20) + 4)
LAYERS = 20
#: Partitions in about that many pieces, so that the largest tensors span two.
PARTITIONS = 5


def make(folder: str, nbytes: int, rows: Sequence[Dtype], *, seed: int = 0) -> str:
    """Write the checkpoint.

    Parameters
    ----------
    folder : str
        A folder to make it in.
    nbytes : int
        Bytes of its tensors, about; at least `MIN_NBYTES`.
    rows : sequence of Dtype
        Dtypes to use in turn.
    seed : int
        Other bytes, same shapes.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    OptionError
        `nbytes` is too small.
    FileError
        It cannot be written.
    """
    if nbytes < MIN_NBYTES:
        raise OptionError(
            f"size is {format_nbytes(nbytes)}, expected at least {format_nbytes(MIN_NBYTES)}"
        )
    path = os.path.join(folder, "selftest.ckpt")
    tensors = _tensors(nbytes, rows, seed)
    convert(tensors, path, partition_size=max(nbytes // PARTITIONS, 2 << 20))
    return path


def _tensors(nbytes: int, rows: Sequence[Dtype], seed: int) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415

    torch = dtypes.import_torch()
    random = np.random.default_rng(seed)

    def tensor(size: int, row: Dtype) -> Any:
        """So many bytes, rounded down to whole elements, in a shape of two dimensions."""
        step = max(row.bits * row.pack // 8, 1)
        raw = bytearray(random.bytes(max(size // step, 1) * step))
        if row.name == "BOOL":
            raw = bytearray((np.frombuffer(raw, np.uint8) & 1).tobytes())
        flat = torch.frombuffer(raw, dtype=torch.uint8).view(dtypes.to_torch(row))
        columns = 128 if flat.numel() % 128 == 0 else 1
        return flat.view(-1, columns)

    plain = [row for row in rows if row.name != "BOOL"]
    found: dict[str, Any] = {}
    for i, share in enumerate(LARGE):
        layer = f"model.layers.{i * LAYERS // len(LARGE)}"
        found[f"{layer}.mlp.up_proj.weight"] = tensor(int(nbytes * share), plain[i % len(plain)])
    sizes = random.integers(1, int(2 * nbytes * SMALL_SHARE / SMALL), SMALL).tolist()
    for i, size in enumerate([*EDGES, *sizes]):
        row = rows[i % len(rows)]
        found[f"model.layers.{i % LAYERS}.small.{i}.weight"] = tensor(size, row)
    found["model.embed_tokens.weight"] = tensor(nbytes // 64, plain[0])
    found["lm_head.weight"] = found["model.embed_tokens.weight"]  # tied
    found["model.norm.scale"] = tensor(4, plain[0]).reshape(-1)[0].clone()
    found["model.norm.empty"] = torch.empty((0, 5), dtype=dtypes.to_torch(plain[0]))
    return found
