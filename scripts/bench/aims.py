"""What is aimed at, and what records say of it: ratios of figures taken in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.contenders import CONTENDERS
from bench.models import MODELS

OURS = ("ckptfmt", "runai")
MiB = 1 << 20


@dataclass(frozen=True)
class Aim:
    """One figure beside its aim.

    Attributes
    ----------
    what : str
        As a reader of the table understands it.
    asked : float
        At least, or with `at_most` at most.
    found : float
        The median of the ratios of each round.
    """

    what: str
    asked: float
    found: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is reached, as far as the table shows digits."""
        return self.found <= self.asked if self.at_most else round(self.found, 2) >= self.asked


def aims_of(record: dict[str, Any]) -> Iterator[Aim]:
    """All that a record says something of."""
    kind = record["benchmark"]
    if kind == "convert":
        for name, figures in record["summary"].items():
            if name == "convert-keep":
                yield Aim("convert ÷ `cp` and fsync, cold source", 0.85, figures["rate_to_cp"])
    elif kind == "npu":
        yield from _npu(record["summary"])
    elif kind == "gpu":
        yield from _gpu(record)
    elif kind == "transformers":
        yield from _models(record["summary"])
    elif kind == "vllm":
        yield from _vllm(record["summary"])
    else:
        yield from _loads(record)


def _loads(record: dict[str, Any]) -> Iterator[Aim]:
    summary = record["summary"]
    small = record["model"] == "small100k"

    def ratio(name: str, other: str, state: str) -> float | None:
        found = summary.get(f"{name} {state}", {}).get("rate_to", {}).get(other)
        return None if found is None else float(found)

    def aim(what: str, asked: float, found: float | None, *, at_most: bool = False) -> list[Aim]:
        return [] if found is None else [Aim(what, asked, found, at_most)]

    if small:
        yield from _per_tensor(record)
        return
    yield from aim("cold, verified ÷ C, `O_DIRECT`", 0.92,
                   ratio("ckptfmt", "ceiling-direct", "cold"))  # fmt: skip
    blocks = [n for n in ("ceiling-buffered", "ceiling-buffered-16m") if f"{n} warm" in summary]
    if blocks:
        best = max(blocks, key=lambda n: summary[f"{n} warm"]["gb_s"])
        yield from aim("warm, unverified ÷ C, two threads, at its better block size", 0.95,
                       ratio("ckptfmt-unverified", best, "warm"))  # fmt: skip
    for state, asked in (("cold", 0.92), ("warm", 0.85)):
        yield from aim(f"{state}, verified ÷ unverified", asked,
                       ratio("ckptfmt", "ckptfmt-unverified", state))  # fmt: skip
    for state in ("cold", "warm"):
        yield from aim(f"{state}, safetensors folder ÷ checkpoint, verified", 0.9,
                       ratio("ckptfmt-folder", "ckptfmt", state))  # fmt: skip
    yield from aim("cold, verified ÷ Run:ai", 0.97, ratio("ckptfmt", "runai", "cold"))
    for name, asked in (("ckptfmt-unverified", 1.0), ("ckptfmt", 0.9)):
        what = "verified" if name == "ckptfmt" else "unverified"
        yield from aim(f"warm, {what} ÷ Run:ai, `sync_buffered`", asked,
                       ratio(name, "runai-buffered", "warm"))  # fmt: skip
    yield from aim("warm, verified ÷ Run:ai", 1.5, ratio("ckptfmt", "runai", "warm"))
    for state, asked in (("cold", 1.05), ("warm", 1.5)):
        peers = {
            name: found
            for name, peer in CONTENDERS.items()
            if not name.startswith(OURS) and (peer.private or state == "cold")
            and (found := ratio("ckptfmt", name, state)) is not None
        }  # fmt: skip
        if peers:
            least = min(peers, key=peers.__getitem__)
            yield Aim(f"{state}, verified ÷ the fastest of {len(peers)} other peers ({least})",
                      asked, peers[least])  # fmt: skip
    ours, verifying = summary.get("ckptfmt cold"), summary.get("ceiling-direct-verified cold")
    if ours and verifying:
        yield Aim("cold, verified: processor time ÷ C, verifying too", 1.15,
                  ours["cpu_s_per_gb"] / verifying["cpu_s_per_gb"], at_most=True)  # fmt: skip
    mapped = ratio("safetensors", "ckptfmt-mmap", "warm")
    yield from aim("warm, mapped: time ÷ `load_file`", 1.0, mapped, at_most=True)
    halves = [r for n in ("direct", "buffered") if (r := ratio("ckptfmt", f"ckptfmt-{n}", "half"))]
    yield from aim("half-cached ÷ the better of all direct and all buffered", 1.0,
                   min(halves, default=None))  # fmt: skip


def _per_tensor(record: dict[str, Any]) -> Iterator[Aim]:
    """What each of very many tensors costs beyond its bytes."""
    runs = {(r["round"], r["contender"]): r for r in record["runs"] if "failed" not in r}
    count = len(MODELS[record["model"]](record["scale"]))
    beyond = [
        (run["seconds"] - runs[number, "ceiling-buffered"]["seconds"]) / count * 1e6
        for (number, name), run in runs.items()
        if name == "ckptfmt-unverified" and (number, "ceiling-buffered") in runs
    ]
    if beyond:
        yield Aim(f"{count} tensors, warm: µs each beyond C, opening included", 8,
                  statistics.median(beyond), at_most=True)  # fmt: skip
    opens = [run["open_seconds"] for run in runs.values() if "open_seconds" in run]
    if opens:
        yield Aim("opening them, seconds", 0.6, statistics.median(opens), at_most=True)


def _gpu(record: dict[str, Any]) -> Iterator[Aim]:
    summary = record["summary"]
    ceilings = {"warm": ("ceiling-link", "ceiling-link-2"),
                "cold": ("ceiling-disk-8", "ceiling-disk-32")}  # fmt: skip
    aims = {"warm": ("warm, verified ÷ pinned copies", 0.90),
            "cold": ("cold, verified ÷ C, `O_DIRECT`, to host memory", 0.95)}  # fmt: skip
    for state, (what, asked) in aims.items():
        mine = summary.get(f"ckptfmt {state}")
        if mine is None:
            continue
        there = [n for n in ceilings[state] if f"{n} {state}" in summary]
        if there:
            best = max(there, key=lambda n: summary[f"{n} {state}"]["gb_s"])
            yield Aim(what, asked, mine["rate_to"][best])
        peers = {n: r for n, r in mine["rate_to"].items() if not n.startswith((*OURS[:1], "ceil"))}
        if peers:
            least = min(peers, key=peers.__getitem__)
            yield Aim(f"{state}, verified ÷ the fastest of {len(peers)} peers ({least})", 1.0,
                      peers[least])  # fmt: skip
        if state == "warm" and "safetensors" in peers:
            yield Aim("warm, verified ÷ safetensors as it comes", 5, peers["safetensors"])
        yield Aim(f"{state}, first load: host memory beyond the pool, MiB", 200,
                  mine["first_host_mib_beyond_pool"], at_most=True)  # fmt: skip
    checks = record.get("checks", {})
    if "wrong" in checks.get("reuse", {}):
        yield Aim(f"{checks['reuse']['loads']} loads into memory just used: wrong", 0,
                  checks["reuse"]["wrong"], at_most=True)  # fmt: skip
    if "exit" in checks.get("sanitizer", {}):
        yield Aim("a load under compute-sanitizer: its exit status", 0,
                  checks["sanitizer"]["exit"], at_most=True)  # fmt: skip


def _models(summary: dict[str, Any]) -> Iterator[Aim]:
    mine = summary.get("ckptfmt cold", {})
    rate = mine.get("rate_to", {}).get("from-pretrained")
    if rate:
        yield Aim("a model, cold: time ÷ `from_pretrained`", 0.85, 1 / rate, at_most=True)
        yield Aim("a model, cold: peak memory ÷ model", 1.1, mine["peak_rss_ratio"], at_most=True)


def _vllm(summary: dict[str, Any]) -> Iterator[Aim]:
    for kind, figures in summary.items():
        if "share" in figures:
            yield Aim(f"vLLM loads weights, by {kind}, cold: time ÷ its own loader",
                      figures["asked"], figures["share"], at_most=True)  # fmt: skip


def _npu(summary: dict[str, Any]) -> Iterator[Aim]:
    names = {
        "paced": "simulated link slower than the disk: time ÷ bytes ÷ rate",
        "open": "simulated link faster than the disk: rate ÷ cold load to the CPU",
        "two": "two slow simulated links: rate ÷ one",
    }
    for kind, what in names.items():
        if "ratio" in summary.get(kind, {}):
            found = summary[kind]
            yield Aim(what, found["asked"], found["ratio"], at_most=kind == "paced")
    memory = {"memory": "host memory beside the devices', MiB",
              "board": "RC mode: memory beside the model's, MiB"}  # fmt: skip
    for kind, what in memory.items():
        if "own_peak_nbytes" in summary.get(kind, {}):
            found = summary[kind]
            yield Aim(what, found["asked"] / MiB, found["own_peak_nbytes"] / MiB, at_most=True)
