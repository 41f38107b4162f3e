# shellcheck shell=bash
# Sourced by the scripts beside it: finds what they need, says what is missing, makes environments.
#
# PYTHON         the interpreter to use; else the first of python3, python3.14 … python3.10 that runs
# CKPTFMT_TORCH  what to give pip for torch, options included. The pin keeps all machines on one
#                version; where the index has a build for CPUs only, name that to save gigabytes.
# CKPTFMT_TORCH_NPU  the same for torch_npu, which has to be of torch's own version.

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
TORCH="${CKPTFMT_TORCH:-torch==2.13.0}"
TORCH_NPU="${CKPTFMT_TORCH_NPU:-torch-npu==2.13.0}"
# In an environment of their own, for the slow tests: a Ray cluster, LoRA adapters of real models.
FLEET="ray==2.60.0 peft==0.21.2 transformers==5.24.0 compressed-tensors==0.20.0;python_version>='3.11'"
# And in one more, the last transformers before 5, with the client of the hub that it wants.
FOUR="transformers==4.57.6 peft==0.21.2 accelerate==1.15.0"

# Of pytest-xdist: several processes, each with files of its own.
PROCESSES="$(nproc)"
# shellcheck disable=SC2034  # the scripts use it
SIDE_BY_SIDE=(-n "$((PROCESSES < 4 ? PROCESSES : 4))" --dist loadfile)

export PIP_DISABLE_PIP_VERSION_CHECK=1

say() {
    printf '%s\n' "$*" >&2
}

# A step that says what it does; what it prints is only shown if it fails.
quietly() {
    local what="$1" log status=0
    shift
    say "$what"
    log="$(mktemp)"
    "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        say "failed: $*"
    fi
    rm -f "$log"
    return "$status"
}

die() {
    say "$0: $1"
    shift
    for line in "$@"; do
        say "  $line"
    done
    exit 1
}

# How to get a package here: install_hint DEBIAN FEDORA
install_hint() {
    if command -v apt-get >/dev/null; then
        echo "sudo apt-get install $1"
    elif command -v dnf >/dev/null; then
        echo "sudo dnf install $2"
    else
        echo "install the package that your system calls $1 or $2"
    fi
}

runs_310() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Sets PYTHON. A name on the PATH proves nothing (it may be a wrapper that fails): candidates are run.
find_python() {
    local name found=""
    if [ -n "${PYTHON:-}" ]; then
        runs_310 "$PYTHON" || die "PYTHON=$PYTHON is not a Python of 3.10 or later that runs"
    else
        for name in python3 python3.{14,13,12,11,10} python; do
            command -v "$name" >/dev/null || continue
            if runs_310 "$name"; then
                PYTHON="$name"
                break
            fi
            found="${found:-$("$name" --version 2>&1 | head -n 1 || true)}"
        done
    fi
    if [ -z "${PYTHON:-}" ]; then
        die "needs Python 3.10 or later; found: ${found:-none}" \
            "get it: $(install_hint 'python3 python3-venv python3-dev' 'python3 python3-devel')" \
            "or name one: PYTHON=/path/to/python3 $0"
    fi
    # An absolute path: the caller's folder, or a version manager's answer in it, does not matter then.
    PYTHON="$("$PYTHON" -c 'import sys; print(sys.executable)')"
}

# Everything that is missing, at once, before anything is built.
check_tools() {
    local missing=() version
    find_python
    version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    if [ "$(uname -s)" != Linux ]; then
        die "ckptfmt runs on Linux only, this is $(uname -s)"
    fi
    case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) die "ckptfmt runs on x86-64 and aarch64 only, this is $(uname -m)" ;;
    esac
    if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        missing+=("no venv module in $PYTHON: $(install_hint "python$version-venv" "python3-libs")")
    fi
    if ! "$PYTHON" - <<'END'; then
import os, sys, sysconfig
folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
sys.exit(not any(os.path.exists(os.path.join(f, "Python.h")) for f in folders if f))
END
        missing+=("no Python headers (Python.h): $(install_hint "python$version-dev" "python3-devel")")
    fi
    if ! compiles; then
        missing+=("no working C compiler: $(install_hint 'gcc libc6-dev' 'gcc glibc-devel')")
    fi
    if [ "${#missing[@]}" -ne 0 ]; then
        die "something is missing:" "${missing[@]}"
    fi
}

# Whether the compiler that setuptools will call makes a program.
compiles() {
    local folder status=0 cc
    cc="${CC:-$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("CC") or "cc")')}"
    folder="$(mktemp -d)"
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' >"$folder/try.c"
    # shellcheck disable=SC2086  # CC may hold options
    $cc -o "$folder/try" "$folder/try.c" >/dev/null 2>&1 || status=1
    rm -rf "$folder"
    return "$status"
}

# make_venv FOLDER: an environment of PYTHON, made anew if it is another's or broken. Sets VENV.
make_venv() {
    local wanted
    VENV="$ROOT/$1"
    wanted="$("$PYTHON" -c 'import sys; print(sys.base_prefix, sys.version)')"
    if [ "$("$VENV/bin/python" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null)" != "$wanted" ] ||
        ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        quietly "making $1 with $PYTHON" "$PYTHON" -m venv --clear "$VENV" ||
            die "cannot make $VENV" "remove it and try again"
    fi
    export PATH="$VENV/bin:$PATH"
}

# once NAME FILES… -- COMMAND…: run the command unless it has succeeded before, in this environment,
# with the same arguments and the same content of FILES.
once() {
    local stamp="$VENV/.done-$1" files=() sum
    shift
    while [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    shift
    sum="$(printf '%s\0' "$*" | cat - "${files[@]}" | sha256sum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return
    "$@" || return
    printf '%s\n' "$sum" >"$stamp"
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet "$@"
}

# install_for_tests EXTRA…: the package in place, so that its sources are what is tested, with torch
# and extras; then the extensions, of which only those are built whose sources have changed.
install_for_tests() {
    local extras
    extras="$(IFS=, && echo "$*")"
    # shellcheck disable=SC2086  # TORCH may hold options of pip
    once torch -- quietly "installing $TORCH" pip_install $TORCH ||
        die "cannot install $TORCH" \
            "see above; another version or index: CKPTFMT_TORCH='torch==2.9.1 --index-url …' $0"
    once "package-${extras//,/-}" "$ROOT/pyproject.toml" "$ROOT/setup.py" -- \
        quietly "installing ckptfmt with $extras" pip_install --editable "${ROOT}[$extras]" \
        'setuptools>=77' 'cython>=3.1,<4' ||
        die "cannot install ckptfmt" "see above"
    (cd "$ROOT" && quietly "building the extensions" "$VENV/bin/python" setup.py --quiet \
        build_ext --inplace) || die "cannot build the extensions" "see above"
}

# Another environment on top of the one for tests, with torch_npu: it comes with every `import torch`
# and so must not be where the other tests are. Sets NPU_PYTHON, or NPU_MISSING to the reason why not.
install_torch_npu() {
    local tests="$VENV" cuda
    export NPU_PYTHON="" NPU_MISSING=""
    cuda="$("$tests/bin/python" -c 'import torch; print(torch.version.cuda or "")')"
    if [ -n "$cuda" ]; then
        NPU_MISSING="torch is built for CUDA, which torch_npu refuses: CKPTFMT_TORCH names another build"
    elif ! (make_torch_npu "$tests" >&2); then
        NPU_MISSING="$TORCH_NPU cannot be installed with $("$PYTHON" --version): see above"
    else
        NPU_PYTHON="$ROOT/.venv-npu/bin/python"
    fi
    [ -z "$NPU_MISSING" ] || say "tests of loads to NPUs will be skipped: $NPU_MISSING"
}

# In a shell of its own: VENV and PATH of the caller stay.
make_torch_npu() {
    local packages
    make_venv .venv-npu
    packages="$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    printf '%s\n' "$packages" "$ROOT" \
        >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
    # shellcheck disable=SC2086  # it may hold options of pip
    once torch-npu -- quietly "installing $TORCH_NPU" pip_install --no-deps $TORCH_NPU pyyaml
}

# Two more, with ray, peft and transformers, whose own dependencies decide about no other test. Sets
# FLEET_PYTHON and FOUR_PYTHON, or FLEET_MISSING and FOUR_MISSING to the reason why not.
install_fleet() {
    export FLEET_PYTHON="" FLEET_MISSING="" FOUR_PYTHON="" FOUR_MISSING=""
    if (make_over "$VENV" .venv-fleet "$FLEET" >&2); then
        FLEET_PYTHON="$ROOT/.venv-fleet/bin/python"
    else
        FLEET_MISSING="$FLEET cannot be installed with $("$PYTHON" --version): see above"
        say "tests with ray, peft and transformers will be skipped: $FLEET_MISSING"
    fi
    if (make_over "$VENV" .venv-four "$FOUR" >&2); then
        FOUR_PYTHON="$ROOT/.venv-four/bin/python"
    else
        FOUR_MISSING="$FOUR cannot be installed with $("$PYTHON" --version): see above"
        say "tests with transformers 4 will be skipped: $FOUR_MISSING"
    fi
}

# make_over TESTS FOLDER PACKAGES, in a shell of its own, as above: an environment on top of the one
# for tests. torch is the tests' own: pip finds it there, and is held to it.
make_over() {
    local packages
    make_venv "$2"
    packages="$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    printf '%s\n' "$packages" "$ROOT" \
        >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
    "$VENV/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
        >"$VENV/constraints.txt"
    # shellcheck disable=SC2086  # several packages
    once packages "$VENV/constraints.txt" -- quietly "installing $3" \
        pip_install --constraint "$VENV/constraints.txt" $3
}

# copy_sources FOLDER: what a build and the tests need, without anything that was built.
copy_sources() {
    tar -C "$ROOT" --exclude '*.so' --exclude __pycache__ --exclude '*.egg-info' -cf - \
        ckptfmt tests LICENSE README.md pyproject.toml setup.py | tar -C "$1" -xf -
}
