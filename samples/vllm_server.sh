#!/bin/bash
#
# Serve a checkpoint by vLLM, and ask it something from another terminal:
#
#   samples/vllm_server.sh CHECKPOINT 8000
#   curl -s http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \
#       -d '{"model": "CHECKPOINT", "prompt": "The capital of France is", "max_tokens": 16}'
#
# More options of vLLM may follow: samples/vllm_server.sh CHECKPOINT 8000 --tensor-parallel-size 2
set -euo pipefail

checkpoint="${1:?usage: $0 CHECKPOINT PORT [OPTION OF VLLM…]}"
port="${2:?usage: $0 CHECKPOINT PORT [OPTION OF VLLM…]}"

# As `vllm serve` does, which builds of vLLM under another name lack.
exec python -m vllm.entrypoints.openai.api_server --model "$checkpoint" --load-format ckptfmt \
    --model-loader-extra-config '{"max_nbytes": "512MiB"}' --host 127.0.0.1 --port "$port" "${@:3}"
