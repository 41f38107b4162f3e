"""vLLM in a process of its own, told what to do by JSON.

The process is a fork of one that has imported vLLM: see `tests.vllm.running`. The processes of an
engine of several ranks are vLLM's own, and import it again.

Each job makes an engine and does its steps in turn: prints the tokens it generated, the reports of
ckptfmt's loads on each rank, and what its steps failed with, as one line of JSON.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from typing import Any

#: What the line begins with.
FOUND = "found: "
PROMPTS = [[3, 9, 27, 81, 243], [5, 25, 125], [7, 49, 300, 11], [100, 200]]


class Extension:
    """Methods of vLLM's workers, for ``collective_rpc``."""

    def ckptfmt_reports(self) -> list[dict[str, Any]]:
        """What this rank has loaded."""
        from ckptfmt.vllm.report import load_reports

        return [dataclasses.asdict(report) for report in load_reports()]


def tokens(llm: Any) -> list[list[int]]:
    """What it goes on with, the likeliest token each time."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    asked = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = llm.generate(asked, params, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in found]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One engine."""
    from vllm import LLM

    steps = job.pop("steps", [["tokens"], ["reports"]])
    found: dict[str, Any] = {"tokens": [], "reports": [], "failed": None}
    options = {
        "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 4,
        "kv_cache_memory_bytes": 64 << 20, "enable_prefix_caching": False,
        "worker_extension_cls": "tests.vllm.engine.Extension", **job,
    }  # fmt: skip
    # An engine looks through all objects several times, which takes longer than to load and to ask.
    gc.freeze()
    try:
        llm = LLM(**options)
        for name, *arguments in steps:
            if name == "tokens":
                found["tokens"].append(tokens(llm))
            elif name == "reports":
                found["reports"] = llm.collective_rpc("ckptfmt_reports")
            else:
                positional, named = arguments or ([], {})
                llm.collective_rpc(name, args=tuple(positional), kwargs=named)
        llm.llm_engine.engine_core.shutdown()  # its processes too, before the next engine
        del llm
    except Exception as error:  # told to the test, which knows what it expects
        found["failed"] = f"{type(error).__name__}: {error}"
    return found


def main(jobs: str) -> None:
    """All jobs, in turn."""
    results = [run(job) for job in json.loads(jobs)]
    print(f"\n{FOUND}{json.dumps(results)}", flush=True)  # vLLM may add lines as it ends
