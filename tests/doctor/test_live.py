"""``ckptfmt doctor`` on the machine that the tests run on, without root and without a device."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ckptfmt
from ckptfmt.cli import main
from ckptfmt.doctor import attempt, examination
from ckptfmt.doctor.findings import LEVELS, Check, Told, ok
from ckptfmt.doctor.system import System
from tests.doctor.trees import checkpoint_of, processor, server
from tests.helpers.children import run_child, run_cli

CHECKS = {check.id: check for check in examination.CHECKS}


def told(*args: str | Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], int]:
    """Findings by check, the whole report, the exit code."""
    result = CliRunner().invoke(main, ["doctor", *map(str, args), "--json"])
    report = json.loads(result.stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found, report, result.exit_code


def test_every_check_is_made_here(tmp_path: Path) -> None:
    model = checkpoint_of(tmp_path / "model", 1 << 20)
    found, report, code = told("--device", "cpu", "--for", model)
    assert list(found) == [check.id for check in examination.CHECKS]
    assert code == (0 if report["ok"] else 1)
    assert report["ok"] is not any(
        f["level"] == "FAIL" and f["concerns"] == "ckptfmt" for f in report["findings"]
    )
    assert (report["device"], report["device_reason"], report["root"]) == ("cpu", "asked for", None)
    for finding in report["findings"]:
        check = CHECKS[finding["check"]]
        assert set(finding) == {"check", "level", "concerns", "looked_at", "found", "fix"}
        assert finding["level"] in LEVELS
        assert (finding["looked_at"], finding["concerns"]) == (check.looked_at, check.concerns)
        assert finding["found"]
        assert finding["fix"] or finding["level"] in ("OK", "SKIP")
        assert "the check could not be made" not in finding["found"]
        if check.kind:
            assert finding["level"] == "SKIP"
    assert report["counts"] == {
        level: sum(f["level"] == level for f in report["findings"]) for level in LEVELS
    }
    for name in ("probe.io_uring", "probe.direct_reads", "probe.page_cache", "probe.checksums"):
        assert found[name][0]["level"] in ("OK", "WARN")
    assert str(model / "model.safetensors") in found["probe.direct_reads"][0]["found"]
    assert found["memory.fit"][0]["level"] == "OK"
    assert found["python.package"][0]["found"].startswith(ckptfmt.__version__)
    assert "built for " + ckptfmt.__version__ in found["python.extension"][0]["found"] or (
        found["python.extension"][0]["level"] == "WARN"
    )


def test_what_it_looks_at_if_nobody_says() -> None:
    _, report, code = told()
    assert report["device"].partition(":")[0] in ("cpu", "npu", "cuda")
    assert report["device_reason"].endswith((" there", " installed"))
    assert code == (0 if report["ok"] else 1)


def test_for_a_person(tmp_path: Path) -> None:
    tree = processor(tmp_path).env(http_proxy="http://proxy:3128")
    tree.packages(transformers="4.57.0")
    result = CliRunner().invoke(main, ["doctor", "--root", str(tmp_path)])
    first, *lines, last = result.stdout.splitlines()
    assert first == (
        f"looked at for cpu (nothing of an NPU or a GPU is there) as {tmp_path} describes it"
    )
    (proxy,) = [n for n, line in enumerate(lines) if " machine.proxy" in line]
    assert lines[proxy].startswith("WARN  machine.proxy ")
    assert lines[proxy].endswith("would ask the proxy [other]")
    assert lines[proxy + 1].split(maxsplit=1)[0] == "->"
    assert any(line.endswith("-> pip install accelerate") for line in lines)
    skipped = [line for line in lines if line.startswith("SKIP")]
    assert any("not tried: the root describes another machine" in line for line in skipped)
    assert len(skipped) < 8
    assert last.startswith("0 FAIL, 1 WARN, ")
    assert result.exit_code == 0


def test_a_failure_of_others_is_theirs(tmp_path: Path) -> None:
    server(tmp_path).env(VLLM_PLUGINS="")
    result = CliRunner().invoke(main, ["doctor", "--root", str(tmp_path)])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].endswith("; what fails is not ckptfmt's")
    server(tmp_path).env(ASCEND_OPP_PATH="/nowhere")
    assert CliRunner().invoke(main, ["doctor", "--root", str(tmp_path)]).exit_code == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--device", "gpu:0"], 2, "device is 'gpu:0', expected cpu, npu, npu:N, cuda or cuda:N"),
        (["--device", "npu:x"], 2, "device is 'npu:x'"),
        (["--root", "nowhere"], 2, "root is 'nowhere', which is no folder"),
        (["--for", "nowhere"], 1, "nowhere: cannot be looked at: No such file or directory"),
        (["--for", "."], 2, ".: no weights in it"),
    ],
)
def test_misuse_is_one_line(
    args: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["doctor", *args])
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert words in line


def test_a_checkpoint_and_a_file_are_sized(checkpoint: Path, source: Path) -> None:
    with ckptfmt.open(checkpoint) as opened:
        nbytes = opened.nbytes
    found, _, _ = told("--device", "cpu", "--for", checkpoint)
    assert found["memory.fit"][0]["found"].startswith(f"needs {nbytes / 1e6:.2f} MB, available ")
    assert "part-00000.ckptfmt" in found["probe.direct_reads"][0]["found"]
    file = max(source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    found, _, _ = told("--device", "cpu", "--for", file)
    assert f"needs {file.stat().st_size / 1e6:.2f} MB" in found["memory.fit"][0]["found"]


def test_nothing_is_changed_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint_of(tmp_path / "model", 1 << 20)
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("no connections")

    monkeypatch.setattr(socket, "socket", refuse)
    before = sorted((p, p.stat().st_mtime_ns) for p in [tmp_path, *tmp_path.rglob("*")])
    _, report, _ = told("--device", "cpu", "--for", model)
    assert report["counts"]["OK"] > 10
    assert sorted((p, p.stat().st_mtime_ns) for p in [tmp_path, *tmp_path.rglob("*")]) == before


def test_no_torch_is_imported() -> None:
    child = run_child(
        "import sys\n"
        "from ckptfmt.doctor.examination import run\n"
        "report = run('cpu')\n"
        "assert not {'torch', 'torch_npu', 'safetensors', 'rich'} & set(sys.modules)\n"
        "assert len(report.findings) > 20\n"
    )
    assert child.returncode == 0, child.stderr


def test_a_refused_ring_is_named() -> None:
    child = run_child(
        "import json\n"
        "from tests.helpers.seccomp import refuse\n"
        "import errno\n"
        "refuse({'io_uring_setup': errno.EPERM})\n"
        "from ckptfmt.doctor.examination import run\n"
        "print(json.dumps(run('cpu').to_dict()))\n"
    )
    assert child.returncode == 0, child.stderr
    (found,) = [f for f in json.loads(child.stdout)["findings"] if f["check"] == "probe.io_uring"]
    assert found["level"] == "WARN"
    assert found["found"] == (
        "refused: Operation not permitted; threads read with pread instead"
    )


def run_in(folder: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """``python -m ckptfmt doctor`` in a folder with its sources, which Python looks at first."""
    return subprocess.run(
        [sys.executable, "-m", "ckptfmt", "doctor", "--device", "cpu", *map(str, args)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    """A clone that nobody has built."""
    folder = tmp_path / "clone"
    package = Path(ckptfmt.__file__).parent
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(package, folder / "ckptfmt", ignore=built)
    (folder / "pyproject.toml").touch()
    return folder


def test_in_a_source_folder_it_says_so_and_runs(source_folder: Path, checkpoint: Path) -> None:
    child = run_in(source_folder, "--json", "--for", checkpoint)
    assert child.returncode == 1, child.stderr
    assert child.stderr == ""
    found = {f["check"]: f for f in json.loads(child.stdout)["findings"]}
    assert found["python.package"]["level"] == found["python.extension"]["level"] == "FAIL"
    assert found["python.package"]["found"].startswith(
        f"ckptfmt is imported from the source folder {source_folder}, which has no built _core"
    )
    assert found["python.package"]["fix"] == "leave the folder, or pip install -e ."
    assert found["probe.io_uring"]["found"].startswith("the check could not be made: ")
    nbytes = (checkpoint / "part-00000.ckptfmt").stat().st_size
    assert found["memory.fit"]["found"].startswith(f"needs {nbytes / 1e6:.2f} MB, ")


def test_a_build_of_another_version_is_named(source_folder: Path) -> None:
    """The extension that is imported here, beside a package that has gone on."""
    for path in Path(ckptfmt.__file__).parent.rglob("*.so"):
        target = source_folder / "ckptfmt" / path.relative_to(Path(ckptfmt.__file__).parent)
        shutil.copy(path, target)
    (source_folder / "ckptfmt" / "version.py").write_text('VERSION = "99.0"\n')
    child = run_in(source_folder, "--json")
    assert child.returncode == 1, child.stderr
    found = {f["check"]: f for f in json.loads(child.stdout)["findings"]}
    assert found["python.extension"]["level"] == "FAIL"
    assert found["python.extension"]["found"] == (
        f"_core was built for ckptfmt {ckptfmt.__version__}, the package is 99.0"
    )


def test_a_folder_that_hides_the_package_is_named(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source_folder)
    found, _, _ = told("--device", "cpu")
    assert found["python.package"][0]["level"] == "WARN"
    assert (
        f"Python that is started in {source_folder} imports the sources there, which have no built "
        "_core" in found["python.package"][0]["found"]
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "broken", "/x"), "/x: broken"),
        (ckptfmt.FileError(errno.EACCES, "cannot be read", "/y"), "/y: cannot be read"),
        (ValueError("seven"), "ValueError: seven"),
    ],
)
def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(case: object) -> Iterator[Told]:
        yield ok("first")
        raise error

    checks = (
        Check("a.first", "", breaks, "ckptfmt", "", False),
        Check("a.second", "", lambda case: iter([ok("right")]), "ckptfmt", "", False),
    )
    monkeypatch.setattr(examination, "CHECKS", checks)
    report = examination.run("cpu")
    found = [(f.check, f.level) for f in report.findings]
    assert found == [("a.first", "WARN"), ("a.second", "OK")]
    assert report.findings[0].found.startswith(f"the check could not be made: {words}")


# ---- commands ----


def test_a_command_s_words_its_absence_and_its_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert System().output("npu-smi-of-nobody info") is None
    command = tmp_path / "npu-smi"
    command.write_text("#!/bin/sh\necho \"dcmi $1\" >&2\nexit 5\n")
    command.chmod(0o755)
    assert System().output("npu-smi info") == "dcmi info\n"
    command.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr("ckptfmt.doctor.system.COMMAND_TIMEOUT_S", 0.1)
    with pytest.raises(TimeoutError, match=r"does not end within 0\.1 s"):
        System().output("npu-smi info")


# ---- a device that cannot be brought up ----


def test_without_torch_npu_the_import_says_why() -> None:
    child = run_cli("doctor", "--device", "npu:0", "--json", TORCH_DEVICE_BACKEND_AUTOLOAD="0",
                    LD_LIBRARY_PATH="")  # fmt: skip
    assert child.returncode == 1
    found = {f["check"]: f for f in json.loads(child.stdout)["findings"]}
    assert found["probe.import"]["level"] == "FAIL"
    assert found["probe.import"]["found"].startswith("device 'npu:0' needs torch_npu and CANN: ")
    assert found["probe.device"]["level"] == found["probe.link"]["level"] == "SKIP"
    assert found["probe.library"]["level"] == "FAIL"
    assert found["probe.library"]["found"].startswith("libascendcl.so of CANN cannot be opened: ")


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11 ended it"),
        ("raise SystemExit(3)", "it ended with exit code 3"),
        ("import time; time.sleep(60)", "it did not end within 2 s"),
    ],
)
def test_a_child_may_end_as_it_likes(
    code: str, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = """print('{"step": "import", "torch": "2"}', flush=True); """
    monkeypatch.setattr(attempt, "_CODE", first + code)
    monkeypatch.setattr(attempt, "TIMEOUT_S", 2)
    found = attempt.bring_up("npu:0", None)
    assert (found.steps, found.ended) == ({"import": {"torch": "2"}}, ended)
    assert not found.works
