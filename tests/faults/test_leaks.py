"""Two hundred loads in every way, failing ones among them: no file, mapping or memory stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.helpers.conversions import OPTIONS, Place
from tests.helpers.fork_server import ForkServer

MEASURE = """
import gc, json, os, sys, threading, warnings
import numpy as np
import ckptfmt

warnings.simplefilter("error")

def level():
    gc.collect()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {
        "fds": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
        "maps": len(open("/proc/self/maps").readlines()),
        "anonymous": int(status["RssAnon"].split()[0]) << 10,
    }

def growth(things, warm_up, rounds):
    for i in range(warm_up):
        things[i % len(things)]()
    before = level()
    for i in range(rounds):
        things[i % len(things)]()
    after = level()
    print(json.dumps({key: after[key] - before[key] for key in before}))

def failing(error, function):
    def call():
        try:
            function()
        except error:
            return
        raise AssertionError("this should have failed")
    return call
"""
LOADS = MEASURE + """
good, damaged, cut = sys.argv[1:]
Options = ckptfmt.LoadOptions

def load(path=good, **how):
    options = Options(**{key: how.pop(key) for key in ("io", "reads") if key in how})
    ckptfmt.load(path, options=options, **how)

into = {name: array.clone() for name, array in ckptfmt.load(good).items()}
unaligned = {name: np.empty(array.numel() * array.element_size() + 1, np.uint8)[1:]
             .view(array.numpy().dtype).reshape(array.shape) for name, array in into.items()}

def stream_partly():
    for name, tensor in ckptfmt.open(good).stream(max_nbytes=4 << 20):
        if name == "c.large":
            break

def interrupted(done, total):
    raise KeyboardInterrupt

def cycle():
    checkpoint = ckptfmt.open(good)
    tensors = checkpoint.load(mmap=True)
    tensors["me"] = tensors, checkpoint

ways = [
    load, lambda: load(reads="direct"), lambda: load(reads="direct", io="pread"),
    lambda: load(reads="buffered"), lambda: load(mmap=True), lambda: load(mmap=True, verify=True),
    lambda: load(framework="numpy"), lambda: load(names="b.*"), lambda: load(dtype="fp16"),
    lambda: dict(ckptfmt.open(good).stream()), stream_partly, cycle,
    lambda: ckptfmt.open(good).load_into(into), lambda: ckptfmt.open(good).load_into(unaligned),
    lambda: ckptfmt.open(good).read("b.weight"), lambda: ckptfmt.verify(good),
    failing(ckptfmt.ChecksumError, lambda: load(damaged)),
    failing(ckptfmt.ChecksumError, lambda: load(damaged, reads="direct")),
    failing(ckptfmt.ChecksumError, lambda: load(damaged, io="pread", reads="direct")),
    failing(ckptfmt.ChecksumError, lambda: load(damaged, mmap=True, verify=True)),
    failing(ckptfmt.ChecksumError, lambda: dict(ckptfmt.open(damaged).stream())),
    failing(ckptfmt.FormatError, lambda: load(cut)),
    failing(ckptfmt.NotFoundError, lambda: load(good + "x")),
    failing(ckptfmt.TensorNotFoundError, lambda: load(names="absent")),
    failing(KeyboardInterrupt, lambda: load(progress=interrupted)),
]
growth(ways, 2 * len(ways), 200)
"""
CONVERSIONS = MEASURE + """
from ckptfmt.errors import TargetExistsError
source, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def convert(**how):
    ckptfmt.convert(source, folder + "/model.ckpt", **{**options, "force": True, **how})

ways = [
    convert, lambda: convert(workers=1), lambda: convert(dtype="fp16"),
    lambda: ckptfmt.verify(folder + "/model.ckpt", against=source),
    failing(TargetExistsError, lambda: convert(force=False)),
    failing(ckptfmt.SourceError, lambda: convert(include=["nothing"])),
]
growth(ways, 2 * len(ways), 36)
"""


def assert_nothing_grew(grown: dict[str, int]) -> None:
    """One load holds 13 MiB: a single one that stays shows."""
    assert (grown["fds"], grown["threads"]) == (0, 0), grown
    assert grown["anonymous"] < 4 << 20, grown
    assert grown["maps"] < 10, grown


def damage(path: Path, at: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def test_two_hundred_loads_leave_nothing(
    plain_server: ForkServer, converted: Path, copy: Path, tmp_path: Path
) -> None:
    damage(copy / "part-00002.ckptfmt", 1_500_000)
    cut = tmp_path / "cut.ckpt"
    cut.mkdir()
    for file in copy.iterdir():
        if file.is_file():
            (cut / file.name).write_bytes(file.read_bytes())
    os.truncate(cut / "part-00001.ckptfmt", 1_000_000)
    grown = plain_server.start(LOADS, converted, copy, cut).wait(180).value
    assert_nothing_grew(grown)


def test_conversions_leave_nothing(plain_server: ForkServer, place: Place) -> None:
    grown = plain_server.start(
        CONVERSIONS, place.source, place.target.parent, json.dumps(OPTIONS)
    ).wait(120).value  # fmt: skip
    assert_nothing_grew(grown)
