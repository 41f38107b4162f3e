#!/usr/bin/env bash
# Run the tests, in an environment of their own (.venv-test).
#
#   ./scripts/test.sh                            everything but the slow tests
#   ./scripts/test.sh -m 'slow and not alone'    the slow ones
#   ./scripts/test.sh -m alone                   those of them that want the machine for themselves
#   ./scripts/test.sh tests/unit -k dtype        arguments go to pytest
#
# The first two run files side by side, see tests/helpers/side_by_side.py.
#
# Settings: scripts/environment.sh.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

check_tools
make_venv .venv-test
install_for_tests torch test
install_torch_npu
install_fleet

# The tests of a FAT-like filesystem mount one of their own.
if ! python -c 'import fuse' >/dev/null 2>&1 || ! command -v fusermount >/dev/null; then
    say "FUSE tests will be skipped, libfuse 2 is missing: $(install_hint 'fuse libfuse2' 'fuse fuse-libs')"
elif [ ! -w /dev/fuse ]; then
    say "FUSE tests will be skipped: /dev/fuse cannot be opened"
fi
# The report of a bench is looked at.
if ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then
    say "tests of how a report looks will be skipped, Chromium is missing: $(install_hint chromium chromium)"
fi

case "$*" in
"" | "-m slow and not alone") set -- "$@" "${SIDE_BY_SIDE[@]}" ;;
esac
cd "$ROOT"
exec python -m pytest "$@"
