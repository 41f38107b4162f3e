"""Turn records into tables and plots: ``docs/benchmarks.md``, an SVG each, the README's numbers.

    python scripts/bench_report.py docs/benchmarks/*.json
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from bench.aims import aims_of

ROOT = HERE.parent
NUMBERS = re.compile(r"(<!-- numbers -->\n).*?(<!-- /numbers -->)", re.DOTALL)
GPU_NUMBERS = re.compile(r"(<!-- GPU numbers -->\n).*?(<!-- /GPU numbers -->)", re.DOTALL)
CEILINGS = {"cold": "ceiling-direct", "warm": "ceiling-buffered"}
LABELS = {
    "ckptfmt": "**ckptfmt**, verified",
    "ckptfmt-unverified": "**ckptfmt**, unverified",
    "ckptfmt-folder": "**ckptfmt**, the safetensors folder, unverified",
    "ckptfmt-mmap": "ckptfmt, `mmap=True`",
    "ckptfmt-direct": "ckptfmt, all direct",
    "ckptfmt-buffered": "ckptfmt, all buffered",
    "ceiling-direct": "ceiling: C, O_DIRECT io_uring",
    "ceiling-direct-verified": "the same with CRC32C",
    "ceiling-buffered": "ceiling: C, two threads of pread, 4 MiB",
    "ceiling-buffered-16m": "ceiling: C, two threads of pread, 16 MiB",
    "fio": "fio, O_DIRECT io_uring, small pages",
    "safetensors": "safetensors `load_file` (mmap)",
    "safetensors-clone": "safetensors, open and clone",
    "safetensors-pread": "safetensors `load_file(backend=\"pread\")`",
    "torch": "`torch.load`",
    "torch-mmap": "`torch.load(mmap=True)`",
    "runai": "Run:ai Model Streamer",
    "runai-buffered": "Run:ai, `sync_buffered`",
    "fastsafetensors": "fastsafetensors, no GDS",
    "tensorizer": "tensorizer",
}
MAPPED = {"ckptfmt-mmap", "safetensors", "torch-mmap"}
GPU_LABELS = {
    "ceiling-link": "ceiling: pinned memory to the device, pieces of 1 GiB",
    "ceiling-link-2": "ceiling: the same, two streams, pieces of 32 MiB",
    "ceiling-disk-8": "ceiling: C, O_DIRECT io_uring to host memory, 8 in flight",
    "ceiling-disk-32": "ceiling: the same, 32 in flight",
    "safetensors": "safetensors `load_file`",
    "instanttensor": "InstantTensor",
    "instanttensor-buffered": "InstantTensor, `BUFFERED`",
}
MODEL_LABELS = {
    "ckptfmt": "**`load_model`**, verified",
    "ckptfmt-folder": "`load_model` of the safetensors folder, unverified",
    "from-pretrained": "`from_pretrained` of it, memory-mapped",
}
VLLM_LABELS = {
    "default": "vLLM's own loader, safetensors",
    "name": "**ckptfmt**, by name, verified",
    "rank": "**ckptfmt**, by rank, verified",
}
NPU_LABELS = {
    "cpu": "to the CPU",
    "open": "one device, its link as fast as it goes",
    "paced": "one device, a link of half the disk's rate",
    "one": "one device, a link of a quarter of it",
    "two": "two devices, such a link each, half of the model on each",
    "memory": "one device, memory sampled",
    "board": "a board (RC mode), memory sampled",
}


def rows_of(record: dict[str, Any], state: str) -> list[tuple[str, dict[str, Any]]]:
    """Contenders of a state, fastest first; mapped files, which are not read, at the end."""
    found = [
        (key.rsplit(" ", 1)[0], figures)
        for key, figures in record["summary"].items()
        if key.rsplit(" ", 1)[1] == state
    ]
    return sorted(found, key=lambda row: (row[0] in MAPPED, -row[1]["gb_s"]))


def load_table(record: dict[str, Any], state: str) -> list[str]:
    """One Markdown table."""
    ceiling = best_ceiling(record, state)
    against = LABELS[ceiling].split(":")[0] if ceiling else "ckptfmt"
    lines = [
        f"| {state} | GB/s, median (min – max) | ÷ {against} | first load | CPU s/GB "
        "| peak RSS ÷ model | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, f in rows_of(record, state):
        ratio = f["rate_to"].get(ceiling or "ckptfmt", 1.0)
        lines.append(
            f"| {LABELS[name]} | {f['gb_s']:.2f} ({f['gb_s_min']:.2f} – {f['gb_s_max']:.2f}) | "
            f"{ratio:.2f} | {f['first_gb_s']:.2f} | {f['cpu_s_per_gb']:.2f} | "
            f"{f['peak_rss_ratio']:.2f} | {f['n']} |"
        )
    return lines


def best_ceiling(record: dict[str, Any], state: str) -> str | None:
    """The faster of the ceilings measured in a state."""
    names = [n for n, _ in rows_of(record, state) if n.startswith("ceiling")]
    plain = [n for n in names if not n.endswith("verified")]
    return plain[0] if plain else None


def plot(record: dict[str, Any], state: str) -> str:
    """Bars of rates, the ceiling as a line. Mapped files have no rate and are left out."""
    rows = [(n, f) for n, f in rows_of(record, state) if n not in MAPPED]
    width, left, bar, top = 760, 260, 22, 40
    most = max(f["gb_s_max"] for _, f in rows) * 1.05
    scale = (width - left - 60) / most
    height = top + bar * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="14">{escape(record["model"])}, {state}: GB/s, median; '
        f"the line spans min to max</text>",
    ]
    for i, (name, f) in enumerate(rows):
        y = top + i * bar
        colour = "#999999" if name.startswith("ceiling") else "#c8d6e5"
        colour = "#1f6f8b" if name.startswith("ckptfmt") else colour
        label = escape(re.sub(r"[*`]", "", LABELS[name]))
        low, high = left + f["gb_s_min"] * scale, left + f["gb_s_max"] * scale
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{label}</text>',
            f'<rect x="{left}" y="{y + 3}" width="{f["gb_s"] * scale:.1f}" height="{bar - 8}" '
            f'fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10}" y2="{y + 10}" stroke="#333333"/>',
            f'<text x="{high + 6:.1f}" y="{y + 14}">{f["gb_s"]:.2f}</text>',
        ]
    ceiling = best_ceiling(record, state)
    if ceiling:
        x = left + dict(rows)[ceiling]["gb_s"] * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height - 24}" stroke="#b03a2e" '
            f'stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>", ""])


def convert_table(record: dict[str, Any]) -> list[str]:
    """The Markdown table of a conversion's record."""
    lines = [
        "| | GB/s, median | ÷ cp and fsync | source cached after | n |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, f in record["summary"].items():
        lines.append(
            f"| {name} | {f['gb_s']:.2f} | {f['rate_to_cp']:.2f} | "
            f"{f['source_cached_after']:.0%} | {f['n']} |"
        )
    return lines


def npu_table(record: dict[str, Any]) -> list[str]:
    """The Markdown table of loads to simulated NPUs."""
    lines = ["| | GB/s, median (min – max) | waits for | n |", "| --- | --- | --- | --- |"]
    for name, f in record["summary"].items():
        lines.append(
            f"| {NPU_LABELS[name]} | {f['gb_s']:.2f} ({f['gb_s_min']:.2f} – {f['gb_s_max']:.2f}) | "
            f"{', '.join(f['bottlenecks'])} | {f['n']} |"
        )
    return lines


def model_table(record: dict[str, Any]) -> list[str]:
    """The Markdown table of loads of a model by transformers, fastest first."""
    lines = [
        "| cold | s, median | GB/s, median (min – max) | time ÷ `from_pretrained` | first load, s "
        "| peak memory ÷ model | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    nbytes = record["runs"][0]["nbytes"]
    for name, f in rows_of(record, "cold"):
        ratio = 1 / f["rate_to"].get("from-pretrained", 1.0)
        lines.append(
            f"| {MODEL_LABELS[name]} | {nbytes / f['gb_s'] / 1e9:.2f} | "
            f"{f['gb_s']:.2f} ({f['gb_s_min']:.2f} – {f['gb_s_max']:.2f}) | {ratio:.2f} | "
            f"{nbytes / f['first_gb_s'] / 1e9:.2f} | {f['peak_rss_ratio']:.2f} | {f['n']} |"
        )
    return lines


def vllm_table(record: dict[str, Any]) -> list[str]:
    """The Markdown table of how long vLLM takes to load weights, in each way."""
    lines = [
        "| cold | s, median (min – max) | GB/s | time ÷ vLLM's own | first load, s | n |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {VLLM_LABELS[name]} | {f['seconds']:.2f} ({f['seconds_min']:.2f} – "
        f"{f['seconds_max']:.2f}) | {f['gb_s']:.2f} | {f.get('share', 1.0):.2f} | "
        f"{f['first_seconds']:.2f} | {f['n']} |"
        for name, f in record["summary"].items()
    ]
    return lines


def gpu_table(record: dict[str, Any], state: str, *, short: bool = False) -> list[str]:
    """The Markdown table of loads to a GPU; `short`: the fastest of each sort, and safetensors."""
    lines = [
        f"| {state} | GB/s, median (min – max) | ckptfmt ÷ this | first load | n |",
        "| --- | --- | --- | --- | --- |",
    ]
    ratios = record["summary"].get(f"ckptfmt {state}", {}).get("rate_to", {})
    rows = sorted(rows_of(record, state), key=lambda row: -row[1]["gb_s"])
    if short:
        ceilings = [n for n, _ in rows if n.startswith("ceiling")]
        peers = [n for n, _ in rows if not n.startswith(("ceiling", "ckptfmt"))]
        shown = {*ceilings[:1], "ckptfmt", *peers[:1], "safetensors"}
        rows = [row for row in rows if row[0] in shown]
    for name, f in rows:
        label = GPU_LABELS.get(name) or LABELS[name]
        first = f"{f['first_gb_s']:.2f}" if f["first_gb_s"] else "–"
        lines.append(
            f"| {label} | {f['gb_s']:.2f} ({f['gb_s_min']:.2f} – {f['gb_s_max']:.2f}) | "
            f"{ratios.get(name, 1.0):.2f} | {first} | {f['n']} |"
        )
    return lines


def aims_table(records: list[dict[str, Any]]) -> list[str]:
    """What is aimed at, and what was reached, of all records."""
    lines = ["| | model | aim | reached | |", "| --- | --- | --- | --- | --- |"]
    for record in records:
        for aim in aims_of(record):
            sign = "≤" if aim.at_most else "≥"
            lines.append(
                f"| {aim.what} | {record['model']} | {sign} {aim.asked:.4g} | {aim.found:.2f} | "
                f"{'' if aim.is_met else 'missed'} |"
            )
    return lines


def describe(record: dict[str, Any]) -> str:
    """Where a record comes from, in one line."""
    machine = record["machine"]
    versions = ", ".join(f"{n} {v}" for n, v in record["versions"].items() if v)
    return (
        f"{machine['cpus']} × {machine['cpu']}, {machine['memory_nbytes'] / 1e9:.0f} GB, "
        f"Linux {machine['kernel']}, {record['file_system']}; commit {record['commit']}; "
        f"{versions}."
    )


def section(record: dict[str, Any]) -> list[str]:
    """What there is to say of a record that is not of loads to the CPU."""
    protocol = f"{record.get('protocol', '')}."
    match record["benchmark"]:
        case "convert":
            return [*convert_table(record), ""]
        case "gpu":
            of = f"{record['gpu']} (driver, MiB, PCIe), CUDA {record['cuda']}. {protocol}"
            tables = [[*gpu_table(record, state), ""] for state in ("warm", "cold")]
            return [of, "", *tables[0], *tables[1]]
        case "npu":
            simulated = f"**Links and devices are simulated.** {protocol}"
            return [simulated, "", *npu_table(record), ""]
        case "transformers":
            return [f"Timed: {protocol}", "", *model_table(record), ""]
        case "vllm":
            return [f"Timed: {protocol}", "", *vllm_table(record), ""]
        case other:
            raise SystemExit(f"a record of {other!r}, which has no table")


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    given = parser.parse_args()
    text = ["# Benchmarks", "", "Made by `scripts/bench_report.py` from the records beside it.", ""]
    short: list[str] = []
    gpu: dict[str, Any] | None = None
    records = {path: json.loads(path.read_text()) for path in sorted(given.records)}
    # What conversions from hubs reach is told in docs/hubs.md.
    records = {path: record for path, record in records.items() if record["benchmark"] != "hub"}
    text += ["## Aims", "", "Medians of the ratios within each round.", ""]
    text += [*aims_table(list(records.values())), ""]
    for path, record in records.items():
        text += [f"## {record['benchmark']}: {record['model']}", "", describe(record), ""]
        if record["benchmark"] != "load":
            text += section(record)
            gpu = record if record["benchmark"] == "gpu" else gpu
            continue
        text += [f"Timed: {record['protocol']}.", ""]
        for state in ("cold", "warm", "half"):
            if not rows_of(record, state):
                continue
            text += [*load_table(record, state), ""]
            if state != "half":
                svg = given.docs / "benchmarks" / f"{path.stem}-{state}.svg"
                svg.parent.mkdir(parents=True, exist_ok=True)
                svg.write_text(plot(record, state))
                text += [f"![rates]({svg.relative_to(given.docs)})", ""]
                short += readme_rows(record, state)
    given.docs.mkdir(parents=True, exist_ok=True)
    (given.docs / "benchmarks.md").write_text("\n".join(text))
    if given.readme.exists() and short:
        table = [
            "| model, page cache | ckptfmt, verified | unverified | ceiling | fastest peer |",
            "| --- | --- | --- | --- | --- |",
            *short,
            "",
        ]
        old = given.readme.read_text()
        new = NUMBERS.sub(lambda m: m[1] + "\n".join(table) + "\n" + m[2], old, count=1)
        if gpu is not None:
            shown = [line for state in ("warm", "cold")
                     for line in [*gpu_table(gpu, state, short=True), ""]]  # fmt: skip
            new = GPU_NUMBERS.sub(lambda m: m[1] + "\n".join(shown) + "\n" + m[2], new, count=1)
        given.readme.write_text(new)


def readme_rows(record: dict[str, Any], state: str) -> list[str]:
    """One row of the README's table: GB/s."""
    rows = dict(rows_of(record, state))
    peers = {n: f for n, f in rows.items() if not n.startswith(("ckptfmt", "ceiling", "fio"))}
    private = {n: f for n, f in peers.items() if n not in MAPPED}
    if not private or "ckptfmt" not in rows:
        return []
    best = max(private, key=lambda n: private[n]["gb_s"])
    ceiling = best_ceiling(record, state)

    def rate(name: str | None) -> str:
        return f"{rows[name]['gb_s']:.2f}" if name in rows else "–"

    return [
        f"| {record['model']}, {state} | **{rate('ckptfmt')}** | {rate('ckptfmt-unverified')} | "
        f"{rate(ceiling)} | {rate(best)} ({re.sub('[*`]', '', LABELS[best])}) |"
    ]


if __name__ == "__main__":
    main()
