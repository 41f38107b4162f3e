"""Only what pyproject.toml cannot say: the Cython extensions and their flags."""

import os
import runpy

from Cython.Build import cythonize
from setuptools import Extension, setup

# CKPTFMT_CFLAGS adds flags for one build (warnings, sanitizers); see scripts/sanitize.sh.
EXTRA_FLAGS = os.environ.get("CKPTFMT_CFLAGS", "").split()

#: Goes into _core, so that `ckptfmt doctor` can tell one that was built for another version.
VERSION = runpy.run_path("ckptfmt/version.py")["VERSION"]

DIRECTIVES = {
    "language_level": 3,
    "auto_pickle": False,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "freethreading_compatible": False,
}


def extension(name: str, *c_files: str) -> Extension:
    pyx = "ckptfmt/" + name.replace(".", "/") + ".pyx"
    return Extension(
        f"ckptfmt.{name}",
        [pyx, *c_files],
        depends=[
            "ckptfmt/_native/crc32c.h",
            "ckptfmt/_native/syscalls.h",
            "ckptfmt/version.py",
        ],
        define_macros=[("CKPTFMT_VERSION", f'"{VERSION}"')],
        extra_compile_args=["-O2", "-std=gnu11", *EXTRA_FLAGS],
        extra_link_args=[flag for flag in EXTRA_FLAGS if flag.startswith("-fsanitize")],
    )


setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        [
            extension("_core"),
            extension("_native.acl_control"),
            extension("_native.acl_symbols"),
            extension("_native.checksum", "ckptfmt/_native/crc32c.c"),
            extension("_native.cuda_control"),
            extension("_native.cuda_symbols"),
            extension("_native.device"),
            extension("_native.device_acl"),
            extension("_native.device_cuda"),
            extension("_native.direct"),
            extension("_native.dlpack"),
            extension("_native.files"),
            extension("_native.gds"),
            extension("_native.io_pread"),
            extension("_native.io_uring"),
            extension("_native.landing"),
            extension("_native.memory"),
            extension("_native.staging"),
        ],
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
    )
)
