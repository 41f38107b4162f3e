"""The last part of demo.sh: load a converted checkpoint, compare it, and use it.

    python scripts/demo.py CHECKPOINT SOURCE

SOURCE is the Hugging Face folder of a BERT sentence encoder that CHECKPOINT was converted from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel

import ckptfmt

SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The weights are read straight into memory.",
    "Loading the model takes less than a second.",
]


def main(checkpoint: str, source: str) -> None:
    """Load, compare, embed some sentences with both, compare again."""
    for which in ("first", "again"):
        tensors = ckptfmt.load(checkpoint)
        stats = ckptfmt.load_stats()
        assert stats is not None
        print(
            f"{which}: {len(tensors)} tensors, {stats.nbytes / 1e6:.1f} MB, "
            f"in {stats.seconds * 1e3:.0f} ms, {stats.gb_s:.2f} GB/s, "
            f"{stats.verified_nbytes / 1e6:.1f} MB verified, {stats.engine}"
        )

    expected = load_file(Path(source) / "model.safetensors")
    compare(tensors, expected)
    print(f"all {len(tensors)} tensors equal those of safetensors, bit for bit")

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)  # the tokenizer came along
    mine = embed(encoder(checkpoint, tensors), tokenizer)
    theirs = embed(encoder(source, expected), tokenizer)
    if not torch.equal(mine, theirs):
        sys.exit("the embeddings differ from those of the model loaded through safetensors")
    print("the embeddings equal those of the model loaded through safetensors, exactly\n")

    print("similarity of")
    for row, sentence in zip(mine @ mine.T, SENTENCES, strict=True):
        print("  " + "  ".join(f"{value:5.2f}" for value in row.tolist()) + f"   {sentence}")


def compare(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Names, dtypes, shapes and bits must be the same."""
    if tensors.keys() != expected.keys():
        sys.exit(f"other names than in the source: {sorted(tensors.keys() ^ expected.keys())}")
    for name, tensor in tensors.items():
        other = expected[name]
        same_kind = tensor.dtype == other.dtype and tensor.shape == other.shape
        if not same_kind or bits(tensor) != bits(other):
            sys.exit(f"{name} differs from the source")


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor: as numbers, NaN would differ from itself."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def encoder(folder: str, tensors: dict[str, torch.Tensor]) -> BertModel:
    """The model that the folder's config describes, with these weights."""
    model = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=True)
    # Older files hold the positions 0, 1, 2 …; newer models make them themselves.
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or set(unexpected) - {"embeddings.position_ids"}:
        sys.exit(f"the model misses {missing} and does not know {unexpected}")
    return model.eval()


@torch.inference_mode()
def embed(model: BertModel, tokenizer: AutoTokenizer) -> torch.Tensor:
    """One unit vector for each sentence: the mean over its tokens, padding left out."""
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means, dim=1)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
