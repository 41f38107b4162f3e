"""Children with torch_npu on the simulated runtime: which cases go into which, two at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.npu_cases import ROOT, Case, Place, run_cases
from tests.helpers.simulator import BuildError, build
from tests.helpers.torch_npu import MISSING

if find_spec("torch_npu") is not None:
    # This process needs torch alone, and has no runtime to bring torch_npu up on.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


class Children:
    """Runs the cases of each place together, and has what became of each.

    Parameters
    ----------
    wanted : dict of Place to list of Case
        All that the tests of this run ask for.
    folder : Path
        Where the checkpoints are.
    """

    def __init__(self, wanted: dict[Place, list[Case]], folder: Path) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._jobs: dict[Place, Future[dict[Case, str]]] = {
            place: self._pool.submit(run_cases, place, cases, folder)
            for place, cases in wanted.items()
        }

    def check(self, place: Place, case: Case) -> None:
        """Fail with what went wrong, if anything did."""
        problem = self._jobs[place].result()[case]
        assert not problem, f"{place}: {case}\n{problem}"

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def runtime() -> None:
    """Skip where there is no torch_npu, or nothing to build the runtime with."""
    if MISSING:
        pytest.skip(MISSING)
    pytest.importorskip("torch", reason="needs torch")
    try:
        build()
    except BuildError as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def checkpoints(runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a checkpoint of each model; tests must not change them."""
    from tests.helpers.npu_models import make_checkpoints

    folder = tmp_path_factory.mktemp("npu")
    make_checkpoints(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def children(request: pytest.FixtureRequest, checkpoints: Path) -> Iterator[Children]:
    """For tests with the parameters `place` and `case`."""
    running = Children(wanted(request, "npu"), checkpoints)
    yield running
    running.close()


def wanted(request: pytest.FixtureRequest, kind: str) -> dict[Place, list[Case]]:
    """All that the tests of this run ask for, on one kind of device."""
    found: dict[Place, list[Case]] = {}
    for item in request.session.items:
        given = getattr(item, "callspec", None)
        if given is None or not {"place", "case"} <= given.params.keys():
            continue
        if given.params["place"].kind == kind:
            cases = found.setdefault(given.params["place"], [])
            if given.params["case"] not in cases:
                cases.append(given.params["case"])
    return found


@pytest.fixture(scope="session")
def faulty_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faulty_io.so``, built from tests/fakes."""
    library = tmp_path_factory.mktemp("fakes") / "faulty_io.so"
    names = ("faulty_io", "faulty_rules", "fake_ring")
    subprocess.run(
        [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", library,
         *(ROOT / "tests/fakes" / f"{name}.c" for name in names),
         "-I", ROOT / "ckptfmt/_native", "-ldl", "-lpthread"],
        check=True,
    )  # fmt: skip
    return library
