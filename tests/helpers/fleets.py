"""A fleet to be converted: small models of mixed kinds and sizes, some of them broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
#: What is said of the broken ones, by their names.
CAUSES = {
    "cut-short": "model.safetensors",
    "no-shard": "model-00002-of-00002.safetensors",
    "nothing": "no weights in it that can be read",
}


def write_model(folder: Path, seed: int, *, shards: int = 1, scale: int = 1) -> Path:
    """A folder of 8 kB to 1 MB times `scale`, in four tensors, in one or several files."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows = scale << (seed % 8)
    tensors = {
        f"layers.{i}.weight": random.standard_normal((8 * rows, 61)).astype(np.float32)
        for i in range(4)
    }
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = dict(list(tensors.items())[i::shards])
        save_file(mine, folder / file)
        weight_map.update(dict.fromkeys(mine, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_fleet(folder: Path) -> Path:
    """20 models below a folder, three of them broken, and their manifest."""
    names = [f"model-{i:02d}" for i in range(17)]
    names[3:3], names[9:9], names[15:15] = ["cut-short"], ["no-shard"], ["nothing"]
    for seed, name in enumerate(names):
        write_model(folder / "models" / name, seed, shards=1 + seed % 2)
    break_model(folder / "models", "cut-short")
    break_model(folder / "models", "no-shard")
    break_model(folder / "models", "nothing")
    (folder / "made").mkdir()
    lines: list[dict[str, Any]] = [{"defaults": {"partition_size": "8MiB", "workers": 2}}]
    lines += [{"source": f"models/{name}", "target": f"made/{name}.ckpt"} for name in names]
    lines[1]["exclude"] = "layers.0.*"
    manifest = folder / "fleet.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def break_model(models: Path, name: str) -> None:
    """Take from a model what its name says."""
    folder = models / name
    if name == "cut-short":
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        whole = write_model(models / "whole", 3) / "model.safetensors"
        (folder / "model.safetensors").write_bytes(whole.read_bytes()[:-100])
        for file in whole.parent.iterdir():
            file.unlink()
        whole.parent.rmdir()
    elif name == "no-shard":
        (folder / "model-00002-of-00002.safetensors").unlink()
    else:
        for file in folder.glob("*.safetensors*"):
            file.unlink()


def write_manifest(folder: Path, items: list[dict[str, Any]], **defaults: Any) -> Path:
    """JSON lines."""
    lines = [{"defaults": defaults}, *items] if defaults else items
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def report_of(manifest: Path) -> list[dict[str, Any]]:
    """The lines of its report."""
    path = manifest.with_name(manifest.name + ".report.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def start_batch(
    *arguments: object, env: dict[str, str], python: str = sys.executable
) -> subprocess.Popen[str]:
    """The command in a process of its own, to be interrupted."""
    return subprocess.Popen(
        [python, "-m", "ckptfmt", "batch", *map(str, arguments)], env=env, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
