"""``npu-smi info`` read by the titles of its columns, which differ between chips and versions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(slots=True)
class Chip:
    """One chip; what the tool does not know (``NA``, ``-``) stays as it says it.

    Attributes
    ----------
    fields : dict
        By the titles, without their units: ``Health``, ``Memory-Usage``.
    """

    fields: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``910B3``; a prefix that some versions write is left out."""
        return self.fields.get("Name", "").removeprefix("Ascend")

    @property
    def health(self) -> str:
        """``OK``, ``Warning``, ``Alarm``, ``Critical``."""
        return self.fields.get("Health", "")

    def memory(self) -> tuple[int, int] | None:
        """Bytes free and in all, of the memory that tensors are in; None if that is not told."""
        for title in ("HBM-Usage", "Memory-Usage"):
            match = re.fullmatch(r"([0-9]+)/([0-9]+)", self.fields.get(title, ""))
            if match and int(match[2]):
                used, total = int(match[1]) << 20, int(match[2]) << 20
                return total - used, total
        return None


def parse(text: str) -> list[Chip]:
    """The chips of a table: two rows of titles, then two rows for each."""
    chips: list[Chip] = []
    titles: list[list[list[str]]] = []
    row = 0
    for line in text.splitlines():
        if line.startswith("+="):
            row = 0
            continue
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0].startswith("NPU") and "Health" in cells[1:2]:
            titles = [[cell.split() for cell in cells]]
        elif len(titles) == 1:
            titles.append([cell.split() for cell in cells])
        elif len(titles) == 2:
            if cells[0].startswith("NPU"):  # the table of processes
                break
            if len(cells) != len(titles[row % 2]):
                continue
            if row % 2 == 0:
                chips.append(Chip())
            for names, cell in zip(titles[row % 2], cells, strict=True):
                chips[-1].fields.update(_values(names, cell))
            row += 1
    return chips


def _values(titles: list[str], cell: str) -> dict[str, str]:
    values = re.sub(r"\s*/\s*", "/", cell).split()
    if len(values) > len(titles):  # a name of several words comes last
        values[len(titles) - 1 :] = [" ".join(values[len(titles) - 1 :])]
    names = [re.sub(r"\(.*", "", title) for title in titles]
    return dict(zip(names, values, strict=False))
