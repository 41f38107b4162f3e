"""Two converters on one target, and conversions that are no longer the same when they go on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptfmt
from tests.helpers.conversions import CONVERT, Place
from tests.helpers.fork_server import fault, wait_until


def test_the_second_of_two_converters_is_refused(place: Place, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    first = place.server.start(
        CONVERT, place.source, place.target, "{}",
        faults=(fault("pwrite", "log", nth=1, path="part-"), fault("pwrite", "hold", path="part-")),
        FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log,
    )  # fmt: skip
    wait_until(log.exists)
    for options in ('{"force": true}', '{"resume": true}', "{}"):
        found = place.convert(options).value
        assert found["error"] == "TargetExistsError"
        assert "another conversion is writing it" in found["message"]
    gate.touch()
    assert "error" not in first.wait().value
    place.finish("")


def test_many_converters_at_once_leave_one_whole_checkpoint(place: Place) -> None:
    jobs = [
        place.server.start(CONVERT, place.source, place.target, '{"force": true, "workers": 1}')
        for _ in range(6)
    ]
    results = [job.wait().value for job in jobs]
    errors = {found["error"] for found in results if "error" in found}
    assert errors <= {"TargetExistsError"}
    assert any("error" not in found for found in results)
    place.finish("")


def test_a_target_that_comes_into_being_meanwhile_is_not_touched(
    place: Place, tmp_path: Path
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    job = place.server.start(
        CONVERT, place.source, place.target, "{}",
        faults=(fault("pwrite", "log", path="part-"), fault("pwrite", "hold", path="part-")),
        FAULTY_IO_GATE=gate, FAULTY_IO_LOG=log,
    )  # fmt: skip
    wait_until(log.exists)
    place.target.mkdir()
    (place.target / "mine.txt").write_text("mine")
    gate.touch()
    found = job.wait().value
    assert found["error"] == "TargetExistsError"
    assert "the target exists" in found["message"]
    assert [path.name for path in place.target.iterdir()] == ["mine.txt"]
    shutil.rmtree(place.target)
    assert len(place.finish()) == 3


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("size", "source"), ("time", "source"), ("file", "source"), ("dtype", "options"),
        ("partition_size", "options"), ("include", "options"), ("tool", "tool"),
    ],
)  # fmt: skip
def test_a_changed_conversion_is_not_resumed(
    change: str, key: str, place: Place, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(place.source, tmp_path / "source"))
    here = replace(place, source=source)
    rule = place.at("pwrite", errno.EIO, 2, "part-00002")
    assert here.convert('{"workers": 1}', (rule,)).value["errno"] == errno.EIO
    file, options, code = source / "model.safetensors", {"resume": True}, CONVERT
    match change:
        case "size":
            arrays = {"other": np.zeros(9, np.float32)}
            save_file(arrays, file)
        case "time":
            os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
        case "file":
            file.rename(source / "weights.safetensors")
        case "dtype":
            options["dtype"] = "fp16"
        case "partition_size" | "include":
            value = 3 << 20 if change == "partition_size" else ["f.*", "b.*"]
            code = code.replace("**OPTIONS", f"**{{**OPTIONS, {change!r}: {value!r}}}")
        case "tool":
            code = "import ckptfmt.conversion\nckptfmt.conversion.VERSION = '9.9'" + code
    found = place.server.run(code, source, place.target, json.dumps(options)).value
    assert found["error"] == "TargetExistsError"
    assert f"cannot be resumed: the {key} was" in found["message"]
    assert len(list(place.partial.glob("part-0000[01].ckptfmt"))) == 2, "they are kept"
    assert not place.target.exists()


def test_sidecars_may_change_before_resuming(place: Place, tmp_path: Path) -> None:
    source = Path(shutil.copytree(place.source, tmp_path / "source"))
    here = replace(place, source=source)
    rule = place.at("create", errno.EIO, 1, "ckptfmt.json")
    assert here.convert("{}", (rule,)).value["errno"] == errno.EIO
    assert (place.partial / "tokenizer" / "vocab.txt").exists()
    shutil.rmtree(source / "tokenizer")
    (source / "config.json").write_text("{}")
    assert len(here.convert('{"resume": true}').value["resumed"]) == 3
    assert ckptfmt.verify(place.target).ok
    assert not (place.target / "tokenizer").exists()
    assert (place.target / "config.json").read_text() == "{}"
