"""The documents can be followed: their blocks run, their links lead somewhere, the samples work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ckptfmt
from tests.helpers.children import run_child
from tests.helpers.documents import DOCUMENTS, ROOT, Block, anchors, blocks, links, write_qwen
from tests.helpers.models import equal_bits
from tests.helpers.on_gpus import run_on_gpus
from tests.helpers.simulator import environment
from tests.helpers.torch_npu import MISSING, PYTHON

SAMPLES = sorted((ROOT / "samples").glob("*.py"))
LANGUAGES = {"sh", "python", "text", "json"}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run blocks in: a source, the checkpoint made of it, the commands on the path."""
    write_qwen(tmp_path / "Qwen2.5-3B-Instruct")
    ckptfmt.convert(tmp_path / "Qwen2.5-3B-Instruct", tmp_path / "qwen.ckpt")
    write_commands(tmp_path / "bin", sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(ckptfmt.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_commands(folder: Path, interpreter: str) -> None:
    """The commands that blocks use, run by an interpreter."""
    folder.mkdir(exist_ok=True)
    for name, arguments in (("ckptfmt", " -m ckptfmt"), ("python", "")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{interpreter}"{arguments} "$@"\n')
        command.chmod(0o755)


@pytest.fixture
def npu_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with two simulated NPUs, for the Python that has torch_npu."""
    if MISSING:
        pytest.skip(MISSING)
    write_commands(workplace / "bin", PYTHON)
    for name, value in environment(devices=2, memory="1G").items():
        monkeypatch.setenv(name, value)
    return workplace


def run_shell(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.document.name}:{block.line}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_a_document_runs(document: Path, workplace: Path) -> None:
    if document.name == "README.md":  # its quick start makes the checkpoint itself
        (workplace / "qwen.ckpt").rename(workplace / "made-before.ckpt")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document):
        if block.reason or block.needs_npu or block.needs_gpu or block.needs_library:
            continue
        if block.language == "sh":
            run_shell(block)
        elif block.language == "python":
            padding = "\n" * block.line  # a traceback names the document's own line
            exec(compile(padding + block.text, str(document), "exec"), namespace)


WITH_NPUS = [d for d in DOCUMENTS if any(block.needs_npu for block in blocks(d))]


@pytest.mark.parametrize("document", WITH_NPUS, ids=lambda path: path.name)
def test_every_block_for_an_npu_runs_on_the_simulator(
    document: Path, npu_workplace: Path
) -> None:
    code = ""
    for block in blocks(document):
        if block.needs_npu and block.language == "sh":
            run_shell(block)
        elif block.needs_npu:
            code += block.text
    if code:
        run_shell(Block(document, 0, "sh", f"python - <<'END'\n{code}\nEND\n"))


FOR_GPUS = [b for document in DOCUMENTS for b in blocks(document) if b.needs_gpu]


@pytest.mark.parametrize("block", FOR_GPUS, ids=lambda b: f"{b.document.name}:{b.line}")
def test_blocks_for_a_gpu_run_on_the_fake(block: Block, workplace: Path) -> None:
    assert block.language == "python"
    done = run_on_gpus("-", stdin=block.text, cwd=workplace)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_have_a_known_language(document: Path) -> None:
    assert {block.language for block in blocks(document)} <= LANGUAGES


NOT_RUN = [b for document in DOCUMENTS for b in blocks(document) if b.reason]


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda b: f"{b.document.name}:{b.line}")
def test_blocks_that_are_not_run_name_scripts_that_exist(block: Block) -> None:
    assert re.search(r"\b(network|minutes|hour)\b", block.reason), "only for a reason"
    for name in re.findall(r"^\./(\S+)", block.text, re.MULTILINE):
        script = ROOT / name
        assert os.access(script, os.X_OK), f"{name} cannot be executed"
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_readme_names_the_two_commands_of_a_newcomer() -> None:
    named = {name for b in NOT_RUN for name in re.findall(r"^\./(\S+)", b.text, re.MULTILINE)}
    assert {"scripts/demo.sh", "scripts/test.sh"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link}"


def test_what_the_readme_says_works_without_torch_does(workplace: Path) -> None:
    child = run_child(
        """
import sys
sys.modules["torch"] = None  # importing it fails
import ckptfmt
ckptfmt.convert({source!r}, "other.ckpt")
assert ckptfmt.verify("other.ckpt", against={source!r}).ok
assert "model.norm.weight" in ckptfmt.open("other.ckpt")
try:
    ckptfmt.load("other.ckpt")
except ckptfmt.MissingDependencyError as error:
    print(error.hint)
""".format(source="Qwen2.5-3B-Instruct")
    )
    assert child.stderr == ""
    assert child.stdout == 'pip install torch, or load with framework="numpy"\n'


# ---- samples ----


def load_sample(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample(name: str) -> ModuleType:
    return load_sample(ROOT / "samples" / f"{name}.py")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_are_short_and_say_how_they_are_called(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    assert f"python samples/{path.name} " in (load_sample(path).__doc__ or "")
    assert f"samples/{path.name}" in (ROOT / "README.md").read_text()


def test_quickstart(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample("quickstart").main("Qwen2.5-3B-Instruct", "new.ckpt")
    printed = capsys.readouterr()
    assert "loaded 6 tensors" in printed.out
    assert "6 tensors equal the source's" in printed.out
    assert printed.err == ""


def test_stream_layers(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample("stream_layers").main("qwen.ckpt")
    printed = capsys.readouterr().out.splitlines()
    assert sum(int(line.split(": ")[1].split()[0]) for line in printed) == 6
    assert any(line.startswith("model.layers.0.self_attn.q_proj: ") for line in printed)


def test_fill_existing_model(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample("fill_existing_model").main("tiny.ckpt")
    assert capsys.readouterr().out == "filled 65000 parameters in place\n"
    names = {entry.names for entry in ckptfmt.open("tiny.ckpt").index.tensors}
    assert names == {("embed.weight", "output.weight"), ("output.bias",)}


def test_convert_many_goes_on_after_a_broken_model(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_qwen(workplace / "models" / "good")
    (workplace / "models" / "broken").mkdir()
    convert_many = sample("convert_many")
    assert convert_many.main("models", "made") == 1
    assert convert_many.main("models", "made") == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1] == "good: is there already"
    assert printed.err.count("no weights in it that can be read") == 2
    found = ckptfmt.load("made/good.ckpt")
    wanted = ckptfmt.load("qwen.ckpt")
    assert all(equal_bits(found[name], tensor) for name, tensor in wanted.items())
    assert isinstance(found["model.norm.weight"], torch.Tensor)


def test_batch_slurm(workplace: Path) -> None:
    """As Slurm would run a task of the array, by what is in its environment."""
    script = ROOT / "samples" / "batch_slurm.sh"
    text = script.read_text()
    assert len(text.splitlines()) <= 60
    assert all(line.startswith("#SBATCH --") for line in text.splitlines() if "SBATCH" in line)
    assert "samples/batch_slurm.sh" in (ROOT / "README.md").read_text()
    lines = [{"source": "Qwen2.5-3B-Instruct", "target": f"{i}.ckpt"} for i in (1, 2)]
    manifest = workplace / "two.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", script, *arguments], env={**os.environ, **env},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    done = run("two.jsonl", SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_JOB_ID="77")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in workplace.glob("?.ckpt")) == ["2.ckpt"]
    (record,) = (workplace / "two.jsonl.report.2.jsonl").read_text().splitlines()
    assert json.loads(record)["outcome"] == "done"
    assert run("two.jsonl", SLURM_ARRAY_TASK_ID="3").returncode == 2
    assert "submit this with sbatch" in run("two.jsonl").stderr
    assert "usage: sbatch" in run(SLURM_ARRAY_TASK_ID="1").stderr


def test_load_to_npu(npu_workplace: Path) -> None:
    for device, there in (("npu:0", ["npu:0"]), ("auto", ["npu:0", "npu:1"])):
        done = subprocess.run(
            [PYTHON, ROOT / "samples" / "load_to_npu.py", "qwen.ckpt", device],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        while not lines[0].startswith("loaded 6 tensors, "):  # what torch_npu prints when imported
            del lines[0]
        _, staging, *devices, last = lines
        assert staging.startswith("staging A: ")
        assert [line.split(": ")[0] for line in devices] == there
        assert last == "a copy of the largest one is on npu:0"


def test_load_to_npu_without_one(workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "samples" / "load_to_npu.py", "qwen.ckpt"],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "torch_npu" in done.stderr
