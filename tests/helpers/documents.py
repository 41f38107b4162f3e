"""The documents as data: their code blocks, tables and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.helpers.models import random_tensor, write_folder

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
#: How a block that is not run begins; the reason follows. A reader of the document sees it too.
NOT_RUN = "# Not run by the tests of this text: "
#: How one begins that is run by the Python that has torch_npu, on the simulated runtime.
ON_NPU = "# Needs an NPU; the tests of this text simulate one."
#: How one begins that is run on the fake CUDA.
ON_GPU = "# Needs a GPU; the tests of this text fake one."
#: How one begins that is run by the Python that has transformers.
ON_LIBRARY = "# Needs transformers; the tests of this text have a Python with it."

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def reason(self) -> str:
        """Why it is not run; empty if it is."""
        first = self.text.splitlines()[0] if self.text else ""
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else ""

    @property
    def needs_npu(self) -> bool:
        """Whether it is for an NPU."""
        return self.text.startswith(ON_NPU)

    @property
    def needs_gpu(self) -> bool:
        """Whether it is for a GPU."""
        return self.text.startswith(ON_GPU)

    @property
    def needs_library(self) -> bool:
        """Whether it is for transformers."""
        return self.text.startswith(ON_LIBRARY)


def blocks(document: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in _FENCE.finditer(text)
    ]


def section(document: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    text = document.read_text()
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert start is not None, f"{document.name} has no heading {heading!r}"
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.MULTILINE)
    return text[start.end() :][: end.start() if end else None]


def rows(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text, by their column's title."""
    found: list[dict[str, str]] = []
    titles: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            titles = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not titles:
            titles = cells
        elif set("".join(cells)) - set("-: "):
            found.append(dict(zip(titles, cells, strict=True)))
    return found


def codes(text: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(text)


def links(document: Path) -> list[str]:
    """Targets of all links, but not those in code."""
    return _LINK.findall(_FENCE.sub("", document.read_text()))


def anchors(document: Path) -> set[str]:
    """What a link's ``#…`` may name."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def hexdump(data: bytes) -> str:
    """As ``hexdump -C`` writes it, repeated lines squeezed to a star."""
    lines, last, squeezed = [], b"", False
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        if part == last and len(part) == 16:
            if not squeezed:
                lines.append("*")
            squeezed = True
            continue
        last, squeezed = part, False
        halves = "  ".join(" ".join(f"{byte:02x}" for byte in part[i : i + 8]) for i in (0, 8))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {halves:<48}  |{text}|")
    return "\n".join([*lines, f"{len(data):08x}"]) + "\n"


def write_qwen(folder: Path) -> Path:
    """A toy with the names that a real model has, for the commands in the documents."""
    shapes = {"model.embed_tokens.weight": (100, 64), "model.norm.weight": (64,)}
    for layer in ("model.layers.0", "model.layers.1"):
        shapes[f"{layer}.self_attn.q_proj.weight"] = (64, 64)
        shapes[f"{layer}.self_attn.q_proj.bias"] = (64,)
    tensors = {
        name: random_tensor(shape, torch.bfloat16, seed)
        for seed, (name, shape) in enumerate(shapes.items())
    }
    return write_folder(folder, tensors, shards=2)
