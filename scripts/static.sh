#!/usr/bin/env bash
# Everything that can be said about the code without running it.
#
#   ./scripts/static.sh
#
# All checks run, even after one has failed. Settings: scripts/environment.sh.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

check_tools
make_venv .venv-test
install_for_tests torch test static
cd "$ROOT"

failed=()
check() {
    printf '\n== %s\n' "$*"
    "$@" || failed+=("${*:1:3}")
}

# Warnings are errors, in the C that Cython writes as well.
build_without_warnings() {
    local folder status=0
    folder="$(mktemp -d)"
    copy_sources "$folder"
    (cd "$folder" && CKPTFMT_CFLAGS="-Wall -Wextra -Werror" \
        quietly "building" python setup.py --quiet build_ext --inplace) || status=1
    rm -rf "$folder"
    return "$status"
}

mapfile -t cython < <(git ls-files '*.pyx' '*.pxd')
mapfile -t shell < <(git ls-files '*.sh' .ci/run)
native=(
    ckptfmt._core ckptfmt._native.acl_control ckptfmt._native.acl_symbols
    ckptfmt._native.checksum ckptfmt._native.cuda_control ckptfmt._native.cuda_symbols
    ckptfmt._native.dlpack ckptfmt._native.files ckptfmt._native.gds ckptfmt._native.memory
)

check ruff check .
check python -m mypy
check python -m mypy.stubtest "${native[@]}" --allowlist scripts/stubtest_allowlist.txt \
    --mypy-config-file pyproject.toml
check cython-lint "${cython[@]}"
# No syntax and no library call newer than Python 3.10; mypy's python_version says so of types.
check vermin --target=3.10- --violations --no-tips --no-parse-comments \
    --backport typing_extensions ckptfmt tests scripts samples setup.py
check codespell
check build_without_warnings
if command -v shellcheck >/dev/null; then
    check shellcheck --external-sources "${shell[@]}"
else
    printf '\n== shellcheck is missing, the scripts are not checked: %s\n' \
        "$(install_hint shellcheck ShellCheck)"
fi

if [ "${#failed[@]}" -ne 0 ]; then
    printf '\nstatic checks failed:%s\n' "$(printf ' [%s]' "${failed[@]}")"
    exit 1
fi
printf '\nstatic checks passed\n'
