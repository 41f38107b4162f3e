"""The samples, and the document's blocks, that need transformers: run at small size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.documents import DOCUMENTS, blocks
from tests.helpers.fleet_python import MISSING, PYTHON, ROOT
from tests.helpers.library_cases import environment_of
from tests.helpers.torch_npu import MISSING as NPU_MISSING
from tests.helpers.torch_npu import PYTHON as NPU_PYTHON

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

MAKE = """
import sys
from pathlib import Path
from tests.transformers.cases import making_for_samples
making_for_samples.write(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what samples and blocks name."""
    folder = tmp_path_factory.mktemp("place")
    run(folder, "-c", MAKE, folder)
    return folder


def run(
    folder: Path, *arguments: str | Path, which: str = "five", python: str = PYTHON
) -> list[str]:
    """A Python with transformers; the lines that it prints."""
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment_of(which, str(folder / "cache")),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def sample(name: str) -> Path:
    return ROOT / "samples" / f"{name}.py"


def test_transformers_npu(place: Path) -> None:
    if NPU_MISSING:
        pytest.skip(NPU_MISSING)
    for device, there in (("npu:0", ["npu:0"]), ("auto", ["npu:0", "npu:1"])):
        lines = run(
            place, sample("transformers_npu"), "llama.ckpt", device, which="npu", python=NPU_PYTHON
        )
        while not lines[0].startswith("LlamaForCausalLM: "):  # what torch_npu prints
            del lines[0]
        assert "A: " in lines[0]
        assert [line.partition(": ")[0] for line in lines[1:]] == there


def test_transformers_npu_answers_on_a_cpu(place: Path) -> None:
    lines = run(place, sample("transformers_npu"), "llama.ckpt", "cpu", "w5 w9 w3")
    assert lines[1].startswith("cpu: ")
    assert lines[2].startswith("w5 w9 w3 w")


def test_load_into(place: Path) -> None:
    lines = run(place, sample("load_into"), "llama.ckpt", "later.ckpt", "llama.ckpt")
    assert [line.partition(": ")[0] for line in lines[:2]] == ["later.ckpt", "llama.ckpt"]
    assert lines[2].endswith("tensors where they were")


def test_load_into_another_model(place: Path) -> None:
    done = subprocess.run(
        [PYTHON, sample("load_into"), "llama.ckpt", "one.lora"], cwd=place,
        env=environment_of("five", str(place / "cache")), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "nothing was changed: " in done.stderr


def test_adapters(place: Path) -> None:
    lines = run(place, sample("adapters"), "llama.ckpt", "one.lora", "two.lora")
    assert [line.partition(":")[0] for line in lines] == ["one", "two", "one", "two"]
    changes = [float(line.split()[-1]) for line in lines[2:]]
    assert min(changes) > 0.01
    assert changes[0] != changes[1]
    assert (place / "one.again" / "adapter_config.json").exists()


WITH_LIBRARY = [d for d in DOCUMENTS if any(block.needs_library for block in blocks(d))]


@pytest.mark.parametrize("document", WITH_LIBRARY, ids=lambda path: path.name)
def test_blocks_that_need_transformers(document: Path, place: Path) -> None:
    """All of a document's are one program."""
    mine = [block for block in blocks(document) if block.needs_library]
    assert {block.language for block in mine} == {"python"}
    run(place, "-c", "\n".join(block.text for block in mine))
