"""Fixtures of the fault tests: the library that injects them, the server that forks, a model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptfmt
from tests.helpers.conversions import OPTIONS, Place
from tests.helpers.fork_server import ROOT, ForkServer
from tests.helpers.telling import digests, folder_digests

#: Several partitions, one tensor larger than any of them.
PARTITION_NBYTES = 4 << 20


@pytest.fixture(scope="session")
def faulty_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faulty_io.so``, built from tests/fakes."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build tests/fakes with")
    library = tmp_path_factory.mktemp("fakes") / "faulty_io.so"
    names = ("faulty_io", "faulty_rules", "fake_ring")
    sources = [ROOT / "tests/fakes" / f"{name}.c" for name in names]
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", library,
         *sources, "-I", ROOT / "ckptfmt/_native", "-ldl", "-lpthread"],
        check=True,
    )  # fmt: skip
    return library


@pytest.fixture(scope="session")
def server(
    faulty_io: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForkServer]:
    """Forks a child for each job, with the faults it is to meet."""
    running = ForkServer(tmp_path_factory.mktemp("jobs"), faulty_io)
    yield running
    running.close()


@pytest.fixture(scope="session")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """The same without the library, where the calls as they are made matter."""
    running = ForkServer(tmp_path_factory.mktemp("plain-jobs"), None)
    yield running
    running.close()


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """Tensors of the model: some megabytes, odd sizes, an empty and a tiny one."""
    random = np.random.default_rng(0)
    return {
        "a.weight": random.integers(0, 256, (300, 4099), np.uint8),
        "b.weight": random.standard_normal(330_001).astype(np.float32),
        "c.large": random.standard_normal(2_500_003).astype(np.float32),
        "d.bias": random.standard_normal(7).astype(np.float16),
        "e.empty": np.zeros((0, 5), np.float32),
        "f.weight": random.integers(0, 1 << 40, (411, 333), np.int64),
    }


@pytest.fixture(scope="session")
def good(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Digests of the tensors."""
    return digests(arrays)


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> Path:
    """A folder to convert; tests must not change it."""
    folder = tmp_path_factory.mktemp("source")
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "test"}\n')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("hello\nworld\n")
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Path:
    """`small_source`, converted without a fault; tests must not change it."""
    target = tmp_path_factory.mktemp("converted") / "model.ckpt"
    ckptfmt.convert(small_source, target, partition_size=PARTITION_NBYTES)
    return target


@pytest.fixture
def copy(tmp_path: Path, converted: Path) -> Path:
    """A copy of `converted` that a test may change."""
    return Path(shutil.copytree(converted, tmp_path / "copy.ckpt"))


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> dict[str, str]:
    """Digests of the files that the small conversion gives without faults."""
    target = tmp_path_factory.mktemp("expected") / "model.ckpt"
    ckptfmt.convert(small_source, target, **OPTIONS)
    return folder_digests(target)


@pytest.fixture
def place(
    tmp_path: Path, server: ForkServer, small_source: Path, expected: dict[str, str]
) -> Iterator[Place]:
    """A conversion to be carried out under faults: in memory where that can be, to be quick."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with TemporaryDirectory(dir=memory) as folder:
        yield Place(server, small_source, Path(folder) / "model.ckpt", expected)


@pytest.fixture
def other_checkpoint(place: Place) -> dict[str, str]:
    """Another checkpoint where `place` converts to, and a copy of it beside; its digests."""
    source = place.target.with_name("other-source")
    source.mkdir()
    save_file({"x": np.arange(9, dtype=np.float32)}, source / "model.safetensors")
    (source / "old.txt").write_text("old\n")
    ckptfmt.convert(source, place.target)
    shutil.copytree(place.target, place.target.with_name("other"))
    return folder_digests(place.target)
