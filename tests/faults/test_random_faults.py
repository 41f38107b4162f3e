"""Many faults at once, by seed: the values are right, or the error is the one injected."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import pytest

from tests.helpers.fork_server import FAKE_RING, ForkServer, fault

LOAD = """
import json, sys
import ckptfmt
from tests.helpers.telling import digests, load_digests, tell
path, options, how = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
def run():
    if how == "load":
        return load_digests(path, **options)
    checkpoint = ckptfmt.open(path, options=ckptfmt.LoadOptions(**options))
    if how == "stream":
        return {"digests": digests(dict(checkpoint.stream(framework="numpy", max_nbytes=6 << 20)))}
    if how == "mmap":
        return {"digests": digests(checkpoint.load(mmap=True, verify=True, framework="numpy"))}
    problems = ckptfmt.verify(path, options=ckptfmt.LoadOptions(**options)).problems
    return {"problems": [str(problem) for problem in problems]}
tell(run)
"""
SEEDS = 60


def faults_of(chance: random.Random, failing: bool) -> list[str]:
    """Some faults that heal, and one that does not if `failing`."""
    rules = [FAKE_RING]
    for _ in range(chance.randrange(4, 11)):
        call = chance.choice(["uring", "uring", "pread", "pread", "submit", "wait"])
        healing: list[str | int] = [errno.EINTR]
        if call in ("uring", "pread"):
            healing += [f"short={chance.choice([1, 100, 4096, 8192, 65536, 70_001, 1 << 20])}"]
            healing += [f"short={chance.randrange(1, 1 << 21)}"]
        else:
            healing += [errno.EAGAIN, errno.EBUSY]
        if call == "uring":
            healing += [errno.EAGAIN, "short=0"]
        path = "part-" if call in ("uring", "pread") else ""
        nth = chance.randrange(2, 24)  # the first call of `wait` is the one that probes the ring
        rules.append(fault(call, chance.choice(healing), nth=nth, path=path))
    if chance.random() < 0.3:
        file = f"part-0000{chance.randrange(5)}"
        rules.append(fault("direct_open", errno.EINVAL, path=file))
    if failing:
        call = chance.choice(["uring", "pread"])
        rules.append(fault(call, errno.EIO, nth=chance.randrange(4, 16), onward=True, path="part-"))
    return rules


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_faults_are_healed_or_named(
    seed: int, failing: bool, server: ForkServer, converted: Path, good: dict[str, str]
) -> None:
    chance = random.Random(seed * 2 + failing)
    options = {
        "io": chance.choice(["io_uring", "io_uring", "pread"]),
        "reads": chance.choice(["direct", "direct", "buffered", "auto"]),
        "threads": chance.randrange(1, 5), "depth": chance.randrange(1, 9),
        "op_nbytes": chance.randrange(1, 8) << 20,
    }  # fmt: skip
    how = chance.choice(["load", "load", "stream", "mmap", "verify"])
    rules = faults_of(chance, failing)
    found = server.run(LOAD, converted, json.dumps(options), how, faults=tuple(rules)).value
    if failing and "error" in found:
        assert (found["error"], found["errno"]) == ("FileError", errno.EIO)
    elif how == "verify":
        assert failing or found["problems"] == []
        assert all("Input/output error" in problem for problem in found["problems"])
    else:
        assert "error" not in found, found
        assert found["digests"] == good
