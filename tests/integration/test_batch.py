"""``ckptfmt batch``: a fleet with broken models, restarts, budgets, reports."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ckptfmt
from ckptfmt.batch import Batch, Running
from ckptfmt.batch_job import perform
from ckptfmt.batch_process import JobProcess
from ckptfmt.batch_report import ReportFile
from ckptfmt.batch_report import Result as Record
from ckptfmt.batch_table import BatchTable
from ckptfmt.cli import main
from ckptfmt.errors import FileError
from ckptfmt.manifest import Item, parse
from tests.helpers.children import run_cli
from tests.helpers.fleets import (
    CAUSES,
    ROOT,
    break_model,
    report_of,
    write_fleet,
    write_manifest,
    write_model,
)  # fmt: skip
from tests.helpers.fork_server import wait_until


def batch(*arguments: object) -> Result:
    """The command in this process; its jobs are processes all the same."""
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def outcomes(result: Result) -> list[str]:
    """Of all items, from --json."""
    return [item["outcome"] for item in json.loads(result.stdout)["items"]]


def times(folder: Path) -> dict[str, int]:
    """When each target was made."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.ckpt/ckptfmt.json")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model; tests must not change it."""
    return write_model(tmp_path_factory.mktemp("model") / "m", 0)


def test_a_fleet_with_three_broken_models(tmp_path: Path) -> None:
    manifest = write_fleet(tmp_path)
    first = run_cli("batch", manifest, "--jobs", "2")
    assert first.returncode == 1, first.stderr
    assert first.stdout.startswith("17 done, ")
    assert "0 done before; 3 failed" in first.stdout
    for name, cause in CAUSES.items():
        (line,) = [t for t in first.stderr.splitlines() if f"{name}.ckpt: failed: " in t]
        assert cause in line
    report = report_of(manifest)
    assert sorted(entry["item"] for entry in report) == list(range(1, 21))
    assert {e["target"].split("/")[-1] for e in report if e["outcome"] == "failed"} == {
        f"{name}.ckpt" for name in CAUSES
    }
    for entry in report:
        if entry["outcome"] == "done":
            checked = ckptfmt.verify(entry["target"], against=tmp_path / entry["source"])
            assert checked.ok
            assert checked.compared
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {f"model-{i:02d}.ckpt" for i in range(17)}

    before = times(tmp_path / "made")
    write_model(tmp_path / "mended", 99)
    shutil.rmtree(tmp_path / "models" / "nothing")
    (tmp_path / "mended").rename(tmp_path / "models" / "nothing")
    second = run_cli("batch", manifest, "--jobs", "2", "--json")
    assert second.returncode == 1
    found = json.loads(second.stdout)
    assert (found["done"], found["skipped"], found["failed"]) == (1, 17, 2)
    (done,) = [item for item in found["items"] if item["outcome"] == "done"]
    assert done["source"] == "models/nothing"
    after = times(tmp_path / "made")
    assert {name: after[name] for name in before} == before
    assert len(report_of(manifest)) == 40


def test_the_script_is_the_command(tmp_path: Path, model: Path) -> None:
    manifest = write_manifest(tmp_path, [{"source": str(model), "target": "a.ckpt"}])
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "batch_convert.py", manifest, "--verify"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 done, ")
    assert ckptfmt.verify(tmp_path / "a.ckpt", against=model).ok


@pytest.fixture
def redo(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Record]:
    """Do again, in this process and with other options, an item that was done before."""
    shutil.copytree(model, tmp_path / "m")
    monkeypatch.chdir(tmp_path)

    def again(verify: bool = False, **options: Any) -> Record:
        text = json.dumps({"source": "m", "target": "a.ckpt", **options})
        (item,) = parse(text, path="m.jsonl", folder=str(tmp_path))
        return perform(item, verify=verify)

    assert again().outcome == "done"
    return again


SOURCE = Path("m/model.safetensors")


def rename() -> None:
    SOURCE.rename("m/other.safetensors")


def exchange_names() -> None:
    """Other tensors in a file of the same name and size."""
    SOURCE.write_bytes(SOURCE.read_bytes().replace(b"layers.0", b"layers.9"))


def touch() -> None:
    future = os.stat("a.ckpt/ckptfmt.json").st_mtime_ns + 10**9
    os.utime(SOURCE, ns=(future, future))


def add_sidecar() -> None:
    Path("m/more.txt").write_text("new\n")


def change_sidecar() -> None:
    future = os.stat("a.ckpt/ckptfmt.json").st_mtime_ns + 10**9
    os.utime("m/config.json", ns=(future, future))


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda: None, {"dtype": "bf16"}, "options.dtype was 'keep' and is 'bf16'"),
    (lambda: None, {"exclude": "*.0.*"}, "options.exclude was [] and is ['*.0.*']"),
    (lambda: None, {"tensor_parallel": 2, "tensor_parallel_plan": {"*": "colwise"}},
     "options.tensor_parallel was None and is 2"),
    (rename, {}, "source.files are others, or of other sizes"),
    (exchange_names, {}, "it has other tensors"),
    (touch, {}, "model.safetensors is newer"),
    (add_sidecar, {}, "more.txt is not in it"),
    (change_sidecar, {}, "config.json is newer"),
])  # fmt: skip
def test_what_is_there_and_is_another_fails_unless_it_may_be_replaced(
    change: Callable[[], None], options: dict[str, Any], message: str, redo: Callable[..., Record]
) -> None:
    assert redo(force=True, workers=3).outcome == "skipped"  # neither decides what is written
    change()
    error = redo(**options).error
    assert error is not None
    assert error.type == "TargetExistsError"
    assert f"the target is of another conversion: {message}" in error.message
    assert error.hint == "force: true in the manifest replaces it"
    assert redo(force=True, **options).outcome == "done"
    if change in (touch, change_sidecar):  # it is from the future still
        os.utime(SOURCE, ns=(0, 0))
        os.utime("m/config.json", ns=(0, 0))
    assert redo(**options).outcome == "skipped"
    assert ckptfmt.verify("a.ckpt", against="m").ok


def test_bytes_of_what_is_there_are_read_if_asked_for(redo: Callable[..., Record]) -> None:
    assert redo(verify=True).outcome == "skipped"
    part = Path("a.ckpt/part-00000.ckptfmt")
    data = bytearray(part.read_bytes())
    data[5000] ^= 1
    part.write_bytes(data)
    assert redo().outcome == "skipped"
    error = redo(verify=True).error
    assert error is not None
    assert "layers.0.weight" in error.message
    assert error.hint == "force: true in the manifest makes it anew"
    assert redo(verify=True, force=True).outcome == "done"
    part.write_bytes(data[:-1])  # this shows without reading them
    assert redo().outcome == "failed"
    assert redo(force=True).outcome == "done"
    assert ckptfmt.verify("a.ckpt", against="m").ok


def test_a_fault_of_ours_is_a_failure_of_one_item(
    redo: Callable[..., Record], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def faulty(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("ckptfmt.batch_job.need_of", faulty)
    error = redo(force=True, dtype="bf16").error
    assert error is not None
    assert (error.type, error.message) == ("ZeroDivisionError", "unexpected: oh")
    assert "Traceback" in capsys.readouterr().err


def test_what_was_cut_off_goes_on(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m", 7, scale=4)
    target = tmp_path / "a.ckpt"

    def cut_off(done: int, total: int) -> None:
        state = tmp_path / "a.ckpt.partial" / "resume.json"
        if json.loads(state.read_text())["done"]:
            raise KeyboardInterrupt

    options = {"partition_size": "1100KiB", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        ckptfmt.convert(source, target, **options, progress=cut_off)  # type: ignore[arg-type]
    manifest = write_manifest(tmp_path, [{"source": "m", "target": "a.ckpt"}], **options)
    result = batch(manifest, "--json")
    (item,) = json.loads(result.stdout)["items"]
    assert (item["outcome"], item["resumed"]) == ("done", report_of(manifest)[0]["resumed"])
    assert item["resumed"] >= 1


def test_items_larger_than_the_budget_are_refused_by_name(tmp_path: Path, model: Path) -> None:
    large = write_model(tmp_path / "large", 7)
    items = [
        {"source": str(large), "target": "large.ckpt"},
        {"source": str(model), "target": "small.ckpt"},
        {"source": str(model), "target": "hungry.ckpt", "workers": 256},
    ]
    manifest = write_manifest(tmp_path, items)
    result = batch(manifest, "--disk", "100kB", "--jobs", 1, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["items"]
    assert [item["outcome"] for item in found] == ["failed", "done", "done"]
    assert found[0]["error"]["type"] == "OverBudget"
    assert "of disk, the budget is 100.00 kB" in found[0]["error"]["message"]
    assert not list(tmp_path.glob("large.ckpt*"))
    result = batch(manifest, "--memory", "1MB", "--item", 1, "--json")
    (item,) = json.loads(result.stdout)["items"]
    assert "of memory, the budget is 1.00 MB" in item["error"]["message"]


def test_jobs_wait_for_their_share_and_then_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"source": str(model), "target": f"{i}.ckpt"} for i in range(3)]
    manifest = write_manifest(tmp_path, items, workers=1)
    admit = Batch._admit
    at_work: list[int] = []

    def watched(self: Batch) -> None:
        admit(self)
        at_work.append(sum(job.begun for job in self._running))
        assert len(self._running) <= 3

    monkeypatch.setattr(Batch, "_admit", watched)
    # Each needs the 16 MiB of its worker and what its process has, some 50 MB: no two fit.
    needed = perform_need(items[0], tmp_path)
    result = batch(manifest, "--memory", needed * 3 // 2, "--jobs", 3, "--json")
    assert outcomes(result) == ["done"] * 3, result.stderr
    assert max(at_work) == 1


def perform_need(entry: dict[str, Any], folder: Path) -> int:
    """The memory that an item needs in a process of its own."""
    text = json.dumps({**entry, "workers": 1})
    (item,) = parse(text, path="m.jsonl", folder=str(folder))
    job = JobProcess(item, str(folder), False)
    wait_until(lambda: job.listen() or job.need)
    assert job.need is not None
    job.refuse("only asked", "")
    assert not Path(item.target + ".partial").exists()
    return job.need.memory_nbytes


def test_one_that_is_being_written_is_no_ones_else(tmp_path: Path, model: Path) -> None:
    from ckptfmt.target import Target

    manifest = write_manifest(tmp_path, [{"source": str(model), "target": "a.ckpt"}])
    with Target(str(tmp_path / "a.ckpt"), force=False) as target:
        target.begin({}, resume=False)
        result = batch(manifest, "--json")
        (item,) = json.loads(result.stdout)["items"]
        assert "another conversion is writing it" in item["error"]["message"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--jobs", "0"], "--jobs"), (["--memory", "some"], "not a byte count"),
    (["--item", "3"], "there is no item 3"), (["--address", "auto"], "is for --engine ray"),
    (["--engine", "ray", "--disk", "1GB"], "--memory and --disk are for one machine"),
])  # fmt: skip
def test_misuse_begins_nothing(
    arguments: list[str], message: str, tmp_path: Path, model: Path
) -> None:
    manifest = write_manifest(tmp_path, [{"source": str(model), "target": "a.ckpt"}])
    result = batch(manifest, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "a.ckpt").exists()


def test_a_manifest_that_is_wrong_begins_nothing(tmp_path: Path, model: Path) -> None:
    items = [{"source": str(model), "target": "a.ckpt"}, {"source": str(model), "targets": "b"}]
    manifest = write_manifest(tmp_path, items)
    result = batch(manifest)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{manifest}:2: item 2: unknown key 'targets' (did you mean target?)" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    manifest.write_bytes(b"\xff")
    assert "is no text in UTF-8" in batch(manifest).stderr
    assert batch(tmp_path / "nowhere.jsonl").exit_code == 2


def test_ray_that_is_missing_is_named(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    manifest = write_manifest(tmp_path, [{"source": str(model), "target": "a.ckpt"}])
    result = batch(manifest, "--engine", "ray")
    assert result.exit_code == 1
    assert '--engine ray needs ray: ' in result.stderr
    assert 'pip install "ckptfmt[ray]"' in result.stderr


# ---- what is shown ----


def test_a_terminal_sees_a_table(tmp_path: Path, model: Path) -> None:
    items = [{"source": str(model), "target": "a.ckpt"}, {"source": "nowhere", "target": "b.ckpt"}]
    manifest = write_manifest(tmp_path, items)
    master, slave = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "ckptfmt", "batch", manifest, "--jobs", "1"],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE, stderr=slave, text=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 1 << 16):
            shown += data
    except OSError:  # nobody writes there any more
        pass
    os.close(master)
    stdout, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert stdout.startswith("1 done, ")
    text = shown.decode()
    for part in ("0 of 2 ended", "1 of 2 ended, 1 done", "a.ckpt: done, ",
                 "b.ckpt: failed: nowhere: no such source"):  # fmt: skip
        assert part in text
    # Which of its states is drawn depends on how long they take.
    states = ("planning", "waiting", "converting", "verifying")
    assert any(state in text for state in states)


def test_the_table_tells_bytes_and_rates() -> None:
    from rich.console import Console

    item = Item(number=3, line=9, source="s", target="/t\x1b[31m.ckpt")
    with BatchTable(7) as table:
        table.counts["done"] = 2
        running = [Running(item, "converting", 5 * 10**8, 10**9, 2.0)]
        console = Console(width=120, file=io.StringIO(), force_terminal=False)
        console.print(table._table(running))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("2 of 7 ended, 2 done", "500.00 MB / 1.00 GB", "250.00 MB/s", "converting"):
        assert part in text
    assert "\x1b" not in text


# ---- the report ----


def record(number: int) -> Record:
    return Record(item=number, line=number, source="s", target="t", outcome="done")


def test_a_line_that_a_kill_cut_off_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text('{"item": 1}\n{"ite')
    report = ReportFile(str(path))
    report.add(record(2))
    report.close()
    report.close()
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"item": 1}', '{"ite']
    assert json.loads(lines[2])["item"] == 2


def test_lines_that_do_not_go_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.jsonl"
    report = ReportFile(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "full")))
        report.add(record(1))
    report.add(record(2))
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == [1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "full")))
        report.add(record(3))
        with pytest.raises(FileError, match="cannot be written"):
            report.close()


def test_a_report_that_cannot_be_made_begins_nothing(tmp_path: Path, model: Path) -> None:
    manifest = write_manifest(tmp_path, [{"source": str(model), "target": "a.ckpt"}])
    result = batch(manifest, "--report", tmp_path / "nowhere" / "report")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert not (tmp_path / "a.ckpt").exists()


def test_broken_models_are_as_their_names_say(tmp_path: Path) -> None:
    """The fleet's broken models fail alone, too, for the causes that are looked for."""
    for seed, (name, cause) in enumerate(CAUSES.items()):
        write_model(tmp_path / name, 2 * seed + 1, shards=2)
        break_model(tmp_path, name)
        with pytest.raises(ckptfmt.SourceError, match=cause.replace(".", r"\.")):
            ckptfmt.convert(tmp_path / name, tmp_path / f"{name}.ckpt")
