#!/usr/bin/env bash
# Build for aarch64 and run the unit and native tests there, under qemu's user emulation.
#
#   ./scripts/test_aarch64.sh              tests/unit and tests/native
#   ./scripts/test_aarch64.sh -k crc32c    arguments go to pytest
#
# The extensions are the real ones, cross-compiled, in Debian's Python for arm64; that Python and the
# wheels are unpacked below build/aarch64, nothing is installed. There is no torch, and what needs it
# is skipped. Debian only: needs qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

for tool in apt-get dpkg-deb qemu-aarch64 aarch64-linux-gnu-gcc; do
    command -v "$tool" >/dev/null || die "no $tool" \
        "on Debian: sudo apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
done
check_tools
make_venv .venv-test
install_for_tests torch test

BUILD="$ROOT/build/aarch64"
SYSTEM="$BUILD/system"   # what would be / on such a machine
SITE="$BUILD/site"       # its site-packages
mkdir -p "$BUILD/apt/lists/partial" "$BUILD/apt/cache/archives/partial"

# apt's usual sources, but another architecture and a state of its own, in which nothing is installed.
: >"$BUILD/apt/status"
apt() {
    local tool="$1"
    shift
    "$tool" -o Dir::State="$BUILD/apt" -o Dir::State::status="$BUILD/apt/status" \
        -o Dir::Cache="$BUILD/apt/cache" -o Dir::Log="$BUILD/apt" \
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User="$(id -un)" "$@"
}

unpack_system() {
    local python="$1" deb
    rm -rf "$SYSTEM" "$BUILD/debs"
    mkdir -p "$SYSTEM" "$BUILD/debs"
    (cd "$BUILD/debs" && apt apt-get download \
        "$python-minimal" "lib$python-minimal" "lib$python-stdlib" "lib$python-dev" \
        libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 \
        libuuid1 libcrypt1 libsqlite3-0) || return
    for deb in "$BUILD"/debs/*.deb; do
        dpkg-deb -x "$deb" "$SYSTEM" || return
    done
}

unpack_wheels() {
    local version="$1"
    rm -rf "$SITE"
    pip_install --target "$SITE" --only-binary=:all: --implementation cp \
        --python-version "$version" --platform manylinux_2_28_aarch64 \
        --platform manylinux2014_aarch64 \
        numpy msgspec safetensors click rich pyyaml pytest pytest-xdist hypothesis
}

[ -n "$(ls "$BUILD"/apt/lists/*Packages* 2>/dev/null)" ] ||
    quietly "reading Debian's list of arm64 packages" apt apt-get update || die "apt-get update failed"
python="$(apt apt-cache depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal/\1/p')"
[ -n "$python" ] || die "Debian's sources name no Python for arm64"
once system-aarch64 -- quietly "unpacking Debian's $python for arm64" unpack_system "$python" ||
    die "cannot get $python for arm64" "see above"
once wheels-aarch64 "${BASH_SOURCE[0]}" -- \
    quietly "unpacking wheels for arm64" unpack_wheels "${python#python}" ||
    die "cannot get the wheels for arm64" "see above"

# A copy of the sources, built with what Python for arm64 says of compiler, flags and names.
folder="$BUILD/source"
rm -rf "$folder"
mkdir -p "$folder" "$BUILD/settings"
copy_sources "$folder"
cp "$SYSTEM/usr/lib/$python/_sysconfigdata__aarch64-linux-gnu.py" "$BUILD/settings/_sysconfigdata_target.py"
(
    cd "$folder"
    export PYTHONPATH="$BUILD/settings" _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata_target
    export CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared"
    export CFLAGS="-I$SYSTEM/usr/include/$python -I$SYSTEM/usr/include"
    export CKPTFMT_CFLAGS="-Wall -Wextra -Werror"
    quietly "building for arm64" python setup.py --quiet build_ext --inplace
)
rm -rf "$folder/build"

# Tests start children by sys.executable: a script that an emulated process can execute as well.
emulated="$BUILD/python"
cat >"$emulated" <<END
#!/bin/sh
exec qemu-aarch64 -L '$SYSTEM' -0 '$emulated' -E PYTHONHOME='$SYSTEM/usr' \\
    -E PYTHONPATH='$folder:$SITE' -E PYTHONDONTWRITEBYTECODE=1 '$SYSTEM/usr/bin/$python' "\$@"
END
chmod +x "$emulated"

cd "$folder"
"$emulated" "$ROOT/scripts/check_aarch64.py" "$folder"
[ "$#" -ne 0 ] || set -- "${SIDE_BY_SIDE[@]}" tests/unit tests/native
# Under emulation /proc/cpuinfo and what /proc says of memory are the host's, and statx tells of
# direct reads but not their alignment; MADV_DONTFORK and MADV_HUGEPAGE are ignored.
native=tests/native
left_out=(
    --deselect "$native/test_checksum.py::test_the_instruction_is_used_where_the_processor_has_it"
    --deselect "$native/test_files.py::test_the_alignment_of_direct_reads_is_true"
    --deselect "$native/test_memory.py::test_memory_that_nobody_touches_costs_nothing"
    --deselect "$native/test_memory.py::test_a_thousand_allocations_leak_nothing"
    --deselect "$native/test_memory.py::test_what_is_kept_from_children_is_not_theirs"
    --deselect "$native/test_memory.py::test_whole_huge_pages_of_a_range_are_advised_and_keep_what_they_hold"
    --deselect "$native/test_memory.py::test_what_is_no_memory_is_not_advised"
)
exec "$emulated" -m pytest -p no:cacheprovider "${left_out[@]}" "$@"
