"""Simulators for tests: each a copy of the library, so that each has settings of its own."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.simulator import BuildError, build, settings_of
from tests.simulator.runtime import Runtime

#: A function that makes a simulator: version, strict, started, and the settings.
Simulate = Callable[..., Runtime]


@pytest.fixture(scope="session")
def _compiler() -> None:
    try:
        build()
    except BuildError as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def simulate(_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Load another simulator into this process, started on device 0 unless told otherwise."""
    numbers = itertools.count()

    def load(
        version: str = "8.5.0", *, strict: bool = False, started: bool = True,
        visible_devices: str | None = None, **settings: Any,
    ) -> Runtime:  # fmt: skip
        path = tmp_path / f"libascendcl-{next(numbers)}.so"
        shutil.copy(build(version, strict=strict) / "libascendcl.so", path)
        with monkeypatch.context() as patch:
            for name in [n for n in os.environ if n.startswith(("ACLSIM_", "ASCEND_RT_"))]:
                patch.delenv(name)
            found = settings_of(visible_devices=visible_devices, **{"memory": "256M", **settings})
            for name, value in found.items():
                patch.setenv(name, value)
            runtime = Runtime(path)
        return runtime.start() if started else runtime

    return load
