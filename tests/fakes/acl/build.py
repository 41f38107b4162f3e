"""Build the simulated ACL runtime for one version of CANN: a folder of libraries.

    python tests/fakes/acl/build.py --cann 8.5.0 FOLDER

Needs a C compiler (``CC``, else ``cc``) and nothing else. Put the folder first on
``LD_LIBRARY_PATH``. docs/simulator.md says what the libraries do.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: The versions that are tested; others can be built as well.
VERSIONS = ("7.0.0", "8.0.0", "8.1.RC1", "8.3.RC1", "8.5.0", "9.1.0")

_NEW = {
    "8.0.0": """
        aclGetDeviceCapability aclrtCreateEventExWithFlag aclrtGetLastError aclrtPeekAtLastError
    """,
    "8.1.RC1": """
        aclrtDeviceGetBareTgid aclrtHostRegister aclrtHostUnregister aclrtMallocHostWithCfg
        aclrtMemExportToShareableHandle aclrtMemGetAllocationGranularity
        aclrtMemImportFromShareableHandle aclrtMemSetPidToShareableHandle
        aclrtMemcpyAsyncWithCondition aclrtPointerGetAttributes aclrtQueryDeviceStatus
        aclrtSynchronizeEventWithTimeout aclsysGetCANNVersion
    """,
    "8.3.RC1": "aclrtMemcpyBatch aclrtMemcpyBatchAsync",
    "8.5.0": """
        aclFinalizeReference aclrtGetDeviceInfo aclrtGetPrimaryCtxState aclrtHostGetDevicePointer
        aclrtHostRegisterV2 aclrtIpcMemClose aclrtIpcMemGetExportKey aclrtIpcMemImportByKey
        aclrtIpcMemSetImportPid aclsysGetVersionNum aclsysGetVersionStr
    """,
    "9.1.0": "aclrtMemcpyBatchAsyncV2 aclrtMemcpyBatchV2",
}

#: The first version that has a function. Those not listed are in all, or nothing is known of them.
FIRST = {name: version for version, names in _NEW.items() for name in names.split()}

#: Of these, what torch_npu 2.13.0 links against: without them it cannot be imported. They stay
#: visible in older versions unless the build is strict.
NEEDED_BY_TORCH_NPU = frozenset(
    {
        "aclGetDeviceCapability", "aclrtCreateEventExWithFlag", "aclrtDeviceGetBareTgid",
        "aclrtMemExportToShareableHandle", "aclrtMemImportFromShareableHandle",
        "aclrtMemSetPidToShareableHandle",
    }
)  # fmt: skip

#: Libraries that torch_npu asks for: empty, they lead to libascendcl, where it finds its functions.
COMPANIONS = ("acl_op_compiler", "acl_tdt_channel", "ge_runner", "graph", "hccl")

CFLAGS = (
    "-std=gnu11", "-O2", "-g", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra",
    "-Werror", "-Wmissing-prototypes",
)  # fmt: skip


class BuildError(RuntimeError):
    """The compiler is missing, or has failed; the message is what it said."""


def number(version: str) -> int:
    """A version as CANN counts: ``8.1.RC1`` comes before ``8.1.0``, which is not ``8.0.9``."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(?:RC(\d+)|(\d+))", version, re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a version like 8.5.0 or 8.1.RC1: {version!r}")
    major, minor, rc, patch = (int(part) if part else 0 for part in match.groups())
    return major * 10_000_000 + minor * 100_000 + (rc - 100 if match[3] else patch * 1000)


def hidden(version: str, *, strict: bool = False) -> list[str]:
    """The functions that this version does not have."""
    newer = {name for name, first in FIRST.items() if number(first) > number(version)}
    return sorted(newer if strict else newer - NEEDED_BY_TORCH_NPU)


def sources() -> list[Path]:
    """All that the libraries are made of, this file among it."""
    return [*sorted(HERE.glob("*.[ch]")), Path(__file__).resolve()]


def compiler() -> str:
    """The C compiler, or :class:`BuildError`."""
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        raise BuildError("no C compiler: install one, or set CC")
    return found


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(str(part) for part in command)}\n{done.stderr}")


def compile_objects(folder: Path, flags: tuple[str, ...] = ()) -> list[Path]:
    """Compile what is the same in all versions."""
    folder.mkdir(parents=True, exist_ok=True)
    cc = compiler()

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        _run(cc, *CFLAGS, *flags, "-c", source, "-o", target)
        return target

    files = [path for path in sources() if path.suffix == ".c" and path.stem != "version"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, files))


def link(
    objects: list[Path],
    folder: Path,
    version: str,
    *,
    strict: bool = False,
    flags: tuple[str, ...] = (),
) -> None:
    """Link the libraries of one version into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    script, cc = folder / "symbols.map", compiler()
    local = "".join(f" {name};" for name in hidden(version, strict=strict))
    script.write_text(f"{{ global: *;{' local:' if local else ''}{local} }};\n")
    own = (
        f'-DACLSIM_CANN_VERSION="{version}"', f"-DACLSIM_CANN_NUMBER={number(version)}",
        f"-DACLSIM_CANN_STRICT={int(strict)}",
    )  # fmt: skip
    library = folder / "libascendcl.so"
    _run(
        cc, *CFLAGS, *flags, *own, "-shared", "-o", library, HERE / "version.c", *objects,
        "-Wl,-soname,libascendcl.so", "-Wl,-Bsymbolic", f"-Wl,--version-script={script}",
        "-ldl", "-lm",
    )  # fmt: skip
    for name in COMPANIONS:
        _run(
            cc, "-shared", "-fPIC", *flags, "-o", folder / f"lib{name}.so", "-x", "c", os.devnull,
            f"-Wl,-soname,lib{name}.so", "-Wl,--no-as-needed", f"-L{folder}", "-lascendcl",
            "-Wl,-rpath,$ORIGIN",
        )  # fmt: skip
    script.unlink()


def build(
    folder: Path, version: str = "8.5.0", *, strict: bool = False, flags: tuple[str, ...] = ()
) -> Path:
    """Compile and link into `folder`, which is given back."""
    objects = folder / "objects"
    link(compile_objects(objects, flags), folder, version, strict=strict, flags=flags)
    shutil.rmtree(objects)
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the simulated ACL runtime.")
    parser.add_argument("folder", type=Path, help="where the libraries go")
    parser.add_argument("--cann", default="8.5.0", metavar="VERSION", help="default: %(default)s")
    parser.add_argument(
        "--strict", action="store_true",
        help="hide all newer functions, those too that torch_npu 2.13.0 links against",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        build(options.folder, options.cann, strict=options.strict)
    except (BuildError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
