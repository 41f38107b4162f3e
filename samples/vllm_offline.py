"""Answer prompts by vLLM, with the weights loaded by ckptfmt.

    python samples/vllm_offline.py CHECKPOINT PROMPT…

CHECKPOINT is a folder that `ckptfmt convert` made: vLLM finds configuration and tokenizer in it.
"""

from __future__ import annotations

import os
import sys

#: For a machine with two GPUs or NPUs, 2: each then reads its own slices.
TENSOR_PARALLEL = int(os.environ.get("TENSOR_PARALLEL", "1"))


def main(path: str, *prompts: str) -> None:
    """Load, and print what the model goes on with."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=path,
        load_format="ckptfmt",
        # Any of these may be left out; they are the defaults.
        model_loader_extra_config={"max_nbytes": "512MiB", "verify": True},
        tensor_parallel_size=TENSOR_PARALLEL,
        max_model_len=int(os.environ.get("MAX_MODEL_LEN", "4096")),
    )
    for answer in llm.generate(list(prompts), SamplingParams(temperature=0, max_tokens=32)):
        print(f"{answer.prompt!r}: {answer.outputs[0].text!r}")


if __name__ == "__main__":  # vLLM's processes import this file again
    main(*sys.argv[1:])
