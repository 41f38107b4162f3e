"""How much anonymous memory a piece of code needs, measured in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.children import run_child

#: Imports everything and uses it once, so that what is measured is the work and not the modules.
PRELUDE = """
import json, sys, tempfile, threading, time
import numpy, torch, safetensors.torch
import ckptfmt

def anon():
    with open("/proc/self/status") as status:
        # Shared anonymous memory (mmap of no file) counts as much as private.
        kinds = ("RssAnon", "RssShmem")
        return sum(int(n.split()[1]) for n in status if n.startswith(kinds)) << 10

class Peak:
    def __enter__(self):
        self.base = self.top = anon()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.002):
            self.top = max(self.top, anon())

    def __exit__(self, *_):
        self.top = max(self.top, anon())
        self.done.set()
        self.thread.join()
        print(json.dumps({"peak": self.top - self.base}))

with tempfile.TemporaryDirectory() as small:
    safetensors.torch.save_file({"x": torch.ones(5000)}, small + "/a.safetensors")
    torch.save({"x": torch.ones(5000)}, small + "/a.bin")
    for source in ("a.safetensors", "a.bin"):
        for dtype in ("keep", "bf16"):
            target = f"{small}/{source}.{dtype}"
            ckptfmt.convert(f"{small}/{source}", target, dtype=dtype)
            ckptfmt.verify(target)
            ckptfmt.load(target)
            ckptfmt.load(target, dtype="fp16")
            with ckptfmt.open(target) as checkpoint:
                dict(checkpoint.stream())
                checkpoint.load_into(checkpoint.load())
            ckptfmt.export(target, target + ".back")
    del checkpoint
"""


def peak_nbytes(code: str, *args: str | Path, setup: str = "") -> int:
    """Most anonymous memory that `code` needed beyond the level after imports and `setup`."""
    indented = "\n".join("    " + line for line in code.strip().splitlines())
    child = run_child(f"{PRELUDE}\n{setup}\nwith Peak() as peak:\n{indented}\n", *args)
    assert child.returncode == 0, child.stderr
    return int(json.loads(child.stdout.splitlines()[-1])["peak"])
