"""Records as ``ckptfmt bench --json`` prints them, made up, for pages to be drawn of."""

from __future__ import annotations

from random import Random
from typing import Any

MIB = 1 << 20


def cold() -> dict[str, Any]:
    """A load that the disk limits, by two workers with eight reads each."""
    seconds = 3.25
    return {
        "ckptfmt": "0.1.0", "path": "/models/qwen.ckpt", "device": "cpu", "state": "cold",
        "repeat": 5, "time": "2026-11-26T14:01:17+00:00",
        "machine": {
            "processor": "Some Processor 9000, 2 of 64 cores", "memory_nbytes": 24 << 30,
            "kernel": "6.12.8", "page_nbytes": 4096, "io_uring": True,
            "file_system": "ext4 on /dev/nvme0n1p2, 512-byte sectors, read-ahead 128 KiB",
        },
        "checkpoint": {"nbytes": 6_171_877_376, "tensors": 434, "partitions": 2},
        "settings": {
            "io": "io_uring", "reads": "direct", "threads": 2, "depth": 8, "op_nbytes": 4 * MIB,
            "pool_nbytes": 256 * MIB, "verify": True,
        },
        "load": {
            "id": "load", "what": "ckptfmt.load", "gb_s": 1.90, "seconds": seconds,
            "runs_gb_s": [1.84, 1.89, 1.90, 1.92, 1.95],
            "stats": {"files": {
                "part-00000.ckptfmt": {
                    "direct_nbytes": 4_194_304_000, "buffered_nbytes": 0, "mapped_nbytes": 0,
                    "reason": "0 of 1000 windows cached, 0 in part (cachestat)",
                },
                "part-00001.ckptfmt": {
                    "direct_nbytes": 1_900_000_000, "buffered_nbytes": 77_573_376,
                    "mapped_nbytes": 0,
                    "reason": "18 of 471 windows cached, 2 in part (cachestat)",
                },
            }},
        },
        "ceilings": [
            *(
                {
                    "id": f"disk-{io}-{depth}", "kind": "disk", "gb_s": gb_s, "nbytes": 2 << 30,
                    "what": f"direct reads by {io}, 2 threads, {depth} deep",
                    "runs_gb_s": [gb_s * k for k in (0.97, 0.99, 1, 1.01, 1.04)],
                    "params": {"io": io, "threads": 2, "depth": depth, "op_nbytes": 4 * MIB},
                    "limits": (io, depth) == ("io_uring", 8),
                }
                for io, depth, gb_s in (
                    ("io_uring", 1, 1.31), ("io_uring", 4, 1.88), ("io_uring", 8, 2.00),
                    ("io_uring", 32, 2.02), ("pread", 1, 1.29),
                )
            ),
            _ceiling("cache", "buffered reads of cached files, 2 threads", 5.6),
            _ceiling("memory", "copies into fresh huge pages, 2 threads", 7.9),
            _ceiling("checksum", "CRC32C by hardware, 2 threads", 31.4),
        ],
        "contenders": [
            {"id": "safetensors", "what": "safetensors.torch.load_file", "gb_s": 1.02,
             "runs_gb_s": [0.98, 1.0, 1.02, 1.03, 1.11]},
            {"id": "runai", "what": "Run:ai Model Streamer", "gb_s": 1.74,
             "runs_gb_s": [1.7, 1.71, 1.74, 1.76, 1.80]},
        ],
        "limit": {
            "id": "disk-io_uring-8", "what": "the disk", "gb_s": 2.00, "reached": 0.95,
            "advice": "A faster disk, or several of them as a stripe, would make loads faster; "
            "no setting will.",
        },
        "gains": [
            _gain("threads", "4", "CKPTFMT_THREADS", 0.0, -0.03, "two processors are busy already"),
            _gain("depth", "16", "CKPTFMT_DEPTH", 0.01, 0.012, "the disk has all the reads it can "
                  "work on"),
            _gain("reads", "buffered", "CKPTFMT_READS", -0.31, None, "a copy from the page cache "
                  "is added to each read"),
            _gain("verify", "off", "", 0.004, 0.0, "checksums hide behind the disk"),
        ],
        "best": {"environment": {"CKPTFMT_DEPTH": "16"}, "gb_s": 1.92, "gain": 0.012},
        "timeline": {
            "seconds": seconds,
            "workers": [
                {"name": f"worker {n}", "device": "cpu", "events": events(seconds, n)}
                for n in range(2)
            ],
        },
        "throughput": [
            [0.05 * i, 1.95 + 0.12 * Random(i).uniform(-1, 1) - (0.9 if 30 <= i <= 34 else 0)]
            for i in range(66)
        ],
        "notes": [
            "The page cache held 0 of 6.17 GB before each of the five loads.",
            "The processors ran at 2.1 to 3.4 GHz: they change their clock.",
        ],
    }  # fmt: skip


def device() -> dict[str, Any]:
    """A warm load to a GPU by eight workers, limited by the link."""
    record = cold()
    seconds = 0.36
    record.update({
        "path": "/models/llama.ckpt", "device": "cuda:0", "state": "warm", "contenders": [],
        "best": None, "limit": {
            "id": "link-pinned", "what": "the link to the device", "gb_s": 49.3, "reached": 0.61,
            "advice": "More threads would take more of it.",
        },
        "throughput": [[0.01 * i, 30 + 8 * Random(i).random()] for i in range(36)],
        "timeline": {"seconds": seconds, "workers": [
            {"name": f"worker {n}", "device": "cuda:0", "events": sending(seconds, n)}
            for n in range(8)
        ]},
    })  # fmt: skip
    record["load"].update(gb_s=30.1, seconds=seconds, runs_gb_s=[29.0, 30.1, 30.6])
    record["ceilings"] += [
        {**_ceiling("link", f"host to device, {how}, {size} MiB", gb_s), "id": f"link-{how}{tail}"}
        for how, size, gb_s, tail in (
            ("pinned", 64, 49.3, ""), ("pinned", 1, 31.7, "-1"), ("pageable", 64, 9.8, ""),
        )
    ]  # fmt: skip
    return record


def awkward() -> dict[str, Any]:
    """A very slow load by many workers, of names without a place to break them."""
    record = cold()
    long = "a-name-that-nobody-would-want-to-type_" * 8
    record["path"] = f"/models/{long}.ckpt"
    record["load"].update(gb_s=0.0432, runs_gb_s=[0.043, 0.0432, 0.0439], seconds=142.7)
    record["limit"].update(id="none-of-these", what=long, gb_s=0.05, reached=0.864)
    record["contenders"] = [{"id": long, "what": long, "gb_s": 0.0391, "runs_gb_s": []}]
    record["machine"] = {long: long, "processor": long}
    record["gains"] += [_gain(long, long, "CKPTFMT_" + long.upper(), 12.5, 11.9, long)]
    record["best"] = {"environment": {"CKPTFMT_" + long.upper(): long}, "gb_s": None, "gain": None}
    record["timeline"] = {"seconds": 142.7, "workers": [
        {"name": f"{long} {n}", "device": f"npu:{n % 8}", "events": [
            [300 * begin, 300 * end, kind, nbytes]
            for begin, end, kind, nbytes in events(0.47, n)
        ]}
        for n in range(40)
    ]}  # fmt: skip
    record["throughput"] = [[0.1 * i, 0.04 + 0.01 * Random(i).random()] for i in range(1427)]
    record["notes"] = [long, long]
    return record


def _ceiling(kind: str, what: str, gb_s: float) -> dict[str, Any]:
    return {
        "id": kind, "what": what, "kind": kind, "gb_s": gb_s, "params": {"threads": 2},
        "runs_gb_s": [gb_s * k for k in (0.95, 1, 1.02)], "nbytes": 1 << 30, "limits": False,
    }  # fmt: skip


def _gain(
    setting: str, value: str, variable: str, predicted: float, measured: float | None, why: str
) -> dict[str, Any]:
    return {
        "setting": setting, "value": value, "environment": variable and f"{variable}={value}",
        "predicted_gain": predicted, "predicted_gb_s": 1.9 * (1 + predicted), "why": why,
        "measured_gain": measured,
        "measured_gb_s": None if measured is None else 1.9 * (1 + measured),
    }  # fmt: skip


def events(seconds: float, seed: int, depth: int = 8) -> list[list[Any]]:
    """What a worker does that waits for one of `depth` reads, and verifies it."""
    random, found, now = Random(seed), [], 0.004
    begun = [now] * depth
    while now < seconds - 0.03:
        landed = max(now + 0.0006, begun[0] + 0.025 + 0.006 * random.random())
        found.append([now, landed, "wait for disk", 0])
        found.append([begun.pop(0), landed, "read", 4 * MIB])
        now = landed + 0.0009 + 0.0004 * random.random()
        found.append([landed, now, "verify", 4 * MIB])
        begun.append(now)
    return found


def sending(seconds: float, seed: int) -> list[list[Any]]:
    """What a worker does that reads from the page cache and has copies of it under way."""
    random, found, now = Random(seed), [], 0.001 * seed
    while now < seconds - 0.01:
        read = now + 0.0012 + 0.0004 * random.random()
        found.append([now, read, "buffered read", 4 * MIB])
        found.append([read - 0.0005, read, "verify", 4 * MIB])
        found.append([read, read + 0.0031 + 0.001 * random.random(), "copy", 4 * MIB])
        now = read
        if random.random() < 0.3:
            now += 0.0011
            found.append([read, now, "wait for device", 0])
    return found
