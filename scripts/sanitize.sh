#!/usr/bin/env bash
# Run the native tests and the fuzz tests with the extensions built for the address and the undefined
# behaviour sanitizers. The build is a copy in a temporary folder; the usual one stays as it is.
#
#   ./scripts/sanitize.sh                  tests/native, and of tests/fuzz what reaches native code
#   ./scripts/sanitize.sh tests/faults     arguments go to pytest
#
# Settings: scripts/environment.sh. Needs gcc.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

check_tools
make_venv .venv-test
install_for_tests torch test

runtime=()
for name in libasan.so libubsan.so; do
    path="$(gcc -print-file-name="$name" 2>/dev/null || true)"
    case "$path" in
    /*) runtime+=("$(readlink -f "$path")") ;;
    *) die "no $name of gcc's" "get it: $(install_hint gcc 'libasan libubsan')" ;;
    esac
done

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
copy_sources "$folder"
cd "$folder"
export CC=gcc
CKPTFMT_CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
    quietly "building with sanitizers" python setup.py --quiet build_ext --inplace

# Leaks are not looked for: an interpreter keeps much to its end (tests count what a load leaves).
# Bytes come from malloc, one by one, so that a step over their end shows.
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:alloc_dealloc_mismatch=0"
export UBSAN_OPTIONS="print_stacktrace=1"
export PYTHONMALLOC=malloc
export PYTHONPATH="$folder"
export LD_PRELOAD="${runtime[*]}"

"$VENV/bin/python" - <<'END'
import os

from ckptfmt import _core
from ckptfmt._native import checksum

for module in (_core, checksum):
    assert module.__file__.startswith(os.getcwd()), module.__file__
with open("/proc/self/maps") as maps:
    assert "libasan" in maps.read()
END

if [ "$#" -eq 0 ]; then
    set -- "${SIDE_BY_SIDE[@]}" tests/native tests/fuzz --ignore tests/fuzz/test_index_mutations.py
fi
# The sanitizer keeps freed memory for a while, so the process grows with every allocation.
left_out=(
    --deselect tests/native/test_memory.py::test_a_thousand_allocations_leak_nothing
)
"$VENV/bin/python" -m pytest -p no:cacheprovider "${left_out[@]}" "$@"
