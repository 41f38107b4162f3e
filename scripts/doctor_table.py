"""Write the table of checks in docs/doctor.md anew, from the checks themselves.

    python scripts/doctor_table.py          # prints it
    python scripts/doctor_table.py --write  # puts it into the document
"""

from __future__ import annotations

import sys
from pathlib import Path

from ckptfmt.doctor.examination import CHECKS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "doctor.md"
BEGIN, END = "<!-- checks -->\n", "<!-- /checks -->\n"
WHERE = {"": "always", "npu": "NPU", "cuda": "GPU", "device": "NPU, GPU"}
WHOSE = {"ckptfmt": "ckptfmt", "vllm": "vLLM", "other": "others"}


def table() -> str:
    """A row for each check."""
    rows = ["| Check | Looks at | Says | Made for | Concerns |", "| --- | --- | --- | --- | --- |"]
    for check in CHECKS:
        cells = [
            f"`{check.id}`", check.looked_at, check.meaning,
            WHERE[check.kind] + (", not with `--root`" if check.is_live else ""),
            WHOSE[check.concerns],
        ]  # fmt: skip
        text = " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in cells)
        rows.append(f"| {text} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Print it, or write it."""
    if sys.argv[1:] != ["--write"]:
        sys.stdout.write(table())
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
