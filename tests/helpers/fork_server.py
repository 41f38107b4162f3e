"""A child process that has everything imported and forks for every job.

A fault test wants a process of its own, with its own faults, its own rings and its own death; a
test of vLLM wants one in which no engine has been. Starting Python for each would take most of the
time; a fork takes milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What the ``ckptfmt`` command needs.
COMMAND = (
    "numpy", "safetensors.numpy", "ckptfmt.checkpoint", "ckptfmt.cli", "ckptfmt.conversion",
    "ckptfmt.exporting", "ckptfmt.verification",
)  # fmt: skip

#: The ring of fake_ring.c instead of the kernel's: its completions bring what a test says.
FAKE_RING = "fake_ring"


def fault(
    call: str, action: str | int, *, nth: int = 1, onward: bool = False, path: str = ""
) -> str:
    """A rule of ``tests/fakes/faulty_io.c``, which explains them; an int is an errno."""
    where = f"@{path}" if path else ""
    what = f"fail={action}" if isinstance(action, int) else action
    return f"{call}{where}:{nth}{'+' if onward else ''}:{what}"


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Until it is true; past `timeout_s` the test fails."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended. `returncode` is negative if a signal ended it."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def value(self) -> object:
        """The last line of stdout, as JSON."""
        assert self.returncode == 0, f"exit {self.returncode}\n{self.stdout}{self.stderr}"
        return json.loads(self.stdout.splitlines()[-1])


class Job:
    """A fork that is running."""

    def __init__(self, server: ForkServer, pid: int, folder: Path) -> None:
        self.server = server
        self.pid = pid
        self.folder = folder

    def wait(self, timeout_s: float = 60) -> Result:
        """Wait for its end; past `timeout_s` it is killed, and the test fails."""
        status = self.server.ask({"wait": self.pid, "timeout_s": timeout_s})["status"]
        stdout, stderr = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        assert status is not None, f"still running after {timeout_s} s\n{stdout}{stderr}"
        return Result(os.waitstatus_to_exitcode(status), stdout, stderr)

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Wait until the job has printed `text`."""
        wait_until(lambda: text in (self.folder / "stdout").read_text(), timeout_s)

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.kill(self.pid, signal.SIGINT)


class ForkServer:
    """The parent's end.

    Parameters
    ----------
    folder : Path
        Outputs of jobs go below it.
    library : Path or None
        ``faulty_io.so``; without it there are no faults to be had.
    modules : sequence of str
        What is imported once.
    env : mapping of str to str
        Added to the environment.
    """

    def __init__(
        self, folder: Path, library: Path | None, modules: Sequence[str] = COMMAND,
        env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.jobs = 0
        paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
        kept = {name: text for name, text in os.environ.items() if not name.startswith("CKPTFMT_")}
        kept |= {
            "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "LD_PRELOAD": str(library or ""), **(env or {}),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server", *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept,
        )  # fmt: skip

    def ask(self, request: dict[str, object]) -> dict[str, int | None]:
        """One line there, one line back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, int | None] = json.loads(self.process.stdout.readline())
        return answer

    def start(
        self, code: str, *args: str | Path, faults: tuple[str, ...] = (), **env: str | Path
    ) -> Job:
        """Run `code` in a fork, with `args` as ``sys.argv[1:]`` and the given faults."""
        self.jobs += 1
        folder = self.folder / f"job-{self.jobs:05d}"
        folder.mkdir()
        for name in ("stdout", "stderr"):
            (folder / name).touch()
        given = {name: str(value) for name, value in env.items()}
        pid = self.ask({
            "code": code, "args": [str(a) for a in args], "folder": str(folder),
            "env": {**given, "FAULTY_IO": "\n".join(faults)},
        })["pid"]  # fmt: skip
        assert pid is not None
        return Job(self, pid, folder)

    def run(
        self, code: str, *args: str | Path, faults: tuple[str, ...] = (), **env: str | Path
    ) -> Result:
        """`start`, and wait."""
        return self.start(code, *args, faults=faults, **env).wait()

    def cli(self, *args: str | Path, faults: tuple[str, ...] = (), **env: str | Path) -> Result:
        """Run the ``ckptfmt`` command."""
        return self.run("from ckptfmt.cli import main; main()", *args, faults=faults, **env)

    def close(self) -> None:
        """End the server; jobs have been waited for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


def _run_job(request: dict[str, object]) -> int:
    """What the fork does: its own output, environment and faults, then the code."""
    folder = str(request["folder"])
    for fd, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{folder}/stdout", os.O_WRONLY),
        (2, f"{folder}/stderr", os.O_WRONLY),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.update(request["env"])  # type: ignore[call-overload]
    if os.environ["LD_PRELOAD"]:
        ctypes.CDLL(None).faulty_io_set()
    else:
        assert not request["env"]["FAULTY_IO"]  # type: ignore[index]
    sys.argv = ["ckptfmt", *request["args"]]  # type: ignore[misc]
    code = 0
    try:
        exec(compile(str(request["code"]), "<job>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _wait(pid: int, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.001)


def serve(modules: Sequence[str]) -> None:
    """Import, then answer requests until stdin ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.set_inheritable(answers.fileno(), False)
    os.dup2(2, 1)  # what an import prints is no answer
    for name in modules:
        import_module(name)
    gc.collect()
    gc.freeze()  # what was imported is not looked through in every fork
    while line := requests.readline():
        request = json.loads(line)
        if "wait" in request:
            answer = {"status": _wait(request["wait"], request["timeout_s"])}
        else:
            pid = os.fork()
            if pid == 0:
                requests.close()
                answers.close()
                os._exit(_run_job(request))
            answer = {"pid": pid}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1:])
