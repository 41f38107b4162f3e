"""One contender of scripts/bench_vllm.py: ``python vllm_child.py '{"kind": …}'``."""

from __future__ import annotations

import json
import sys
from typing import Any


def main(given: dict[str, Any]) -> None:
    """Start vLLM without weights, have its workers load some, and print how long that took."""
    from vllm import LLM

    llm = LLM(
        model=given["config"], load_format="dummy", skip_tokenizer_init=True, enforce_eager=True,
        max_model_len=64, max_num_seqs=1, kv_cache_memory_bytes=64 << 20,
        tensor_parallel_size=given["tensor_parallel"],
        worker_extension_cls="bench.vllm_worker.Loads",
    )  # fmt: skip
    load_format = "auto" if given["kind"] == "default" else "ckptfmt"
    found = llm.collective_rpc(
        "ckptfmt_time_loads", args=(load_format, given["path"], given["extra"], given["files"])
    )
    record = {
        "kind": given["kind"],
        "seconds": max(rank["seconds"] for rank in found),
        "first_seconds": max(rank["first_seconds"] for rank in found),
        "nbytes": sum(rank["nbytes"] for rank in found),
        "strategy": found[0]["strategy"],
        "sums": [rank["sum"] for rank in found],
        "ranks": found,
    }
    print("\n" + json.dumps(record), flush=True)


if __name__ == "__main__":  # vLLM's processes import this file again
    main(json.loads(sys.argv[1]))
