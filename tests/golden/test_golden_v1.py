"""Format 1 stands still: what was written once is read, made again, and guarded bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptfmt
from ckptfmt.version import VERSION

V1 = Path(__file__).parent / "v1"
NAMES = ["tiny.ckpt", "dtypes.ckpt", "parts.ckpt"]
EACH = pytest.mark.parametrize("name", NAMES)
# torch says so once, to whoever makes the first complex32 tensor.
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def expected(name: str) -> list[dict[str, Any]]:
    """Names, dtypes, shapes and bytes as they were before the checkpoint was made."""
    values = json.loads((V1 / f"{name}.json").read_text())
    for value in values:
        data = bytes.fromhex(value["hex"])
        nbytes = value["nbytes"]
        value["data"] = (data * (nbytes // len(data) + 1))[:nbytes] if data else b""
    return values


def test_nothing_was_taken_away() -> None:
    assert {f"{name}{end}" for name in NAMES for end in ("", ".json")} == set(os.listdir(V1))
    assert len(list(V1.glob("parts.ckpt/part-*"))) == 3


# ---- reading ----


@EACH
def test_it_holds_what_it_held(name: str) -> None:
    with ckptfmt.open(V1 / name) as checkpoint:
        assert [t.names for t in checkpoint.index.tensors] == [
            tuple(v["names"]) for v in expected(name)
        ]
        for value in expected(name):
            for alias in value["names"]:
                entry = checkpoint.info(alias)
                assert (entry.dtype, list(entry.shape)) == (value["dtype"], value["shape"])
                assert bytes(checkpoint.read(alias)) == value["data"]


@EACH
@pytest.mark.parametrize("mmap", [False, True])
def test_it_loads_as_tensors(name: str, mmap: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    from ckptfmt.dtypes import DTYPES
    from tests.helpers.models import bits

    values = {n: v for v in expected(name) for n in v["names"]}
    known = [n for n, v in values.items() if hasattr(torch, str(DTYPES[v["dtype"]].torch_name))]
    found = ckptfmt.load(V1 / name, names=known, mmap=mmap)
    assert set(found) == set(known)
    for key, tensor in found.items():
        row = DTYPES[values[key]["dtype"]]
        assert tensor.dtype is getattr(torch, str(row.torch_name))
        shape = list(tensor.shape)
        if row.pack > 1:
            shape[-1] *= row.pack
        assert shape == values[key]["shape"]
        assert bits(tensor) == values[key]["data"]


def test_tied_names_share_their_memory() -> None:
    pytest.importorskip("torch", reason="needs torch")
    for name, a, b in (("tiny.ckpt", "embed", "head"), ("parts.ckpt", "large", "tied")):
        found = ckptfmt.load(V1 / name)
        assert found[a].data_ptr() == found[b].data_ptr()


@EACH
def test_verify_finds_nothing(name: str) -> None:
    report = ckptfmt.verify(V1 / name)
    assert report.problems == []
    assert report.tensors == len(expected(name))
    assert report.files == len(list((V1 / name).iterdir()))
    assert report.nbytes == sum(f.stat().st_size for f in (V1 / name).iterdir())


@EACH
def test_sha256sum_agrees(name: str) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("set-up: no sha256sum on this machine")
    result = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=V1 / name, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "ckptfmt.json: OK\n")


def read_plainly(folder: Path, name: str) -> bytes:
    """All that a reader needs who has nothing but Python."""
    index = json.loads((folder / "ckptfmt.json").read_bytes())
    assert (index["format"], index["version"][0], index["requires"]) == ("ckptfmt", 1, [])
    tensor = next(t for t in index["tensors"] if name in t["names"])
    data = b""
    for partition, offset, nbytes in tensor["extents"]:
        with (folder / index["partitions"][partition]["file"]).open("rb") as stream:
            magic, major, _, _, found = struct.unpack("<8sHHI16s", stream.read(32))
            assert (magic, major) == (b"\x89CKPT\r\n\x1a", 1)
            assert found.hex() == index["id"]
            stream.seek(offset)
            data += stream.read(nbytes)
    return data


@EACH
def test_plain_python_reads_it(name: str) -> None:
    for value in expected(name):
        for alias in value["names"]:
            assert read_plainly(V1 / name, alias) == value["data"]


# ---- making it again ----


def parts_of(folder: Path) -> dict[str, Any]:
    """A checkpoint without what depends on the tool's version: its provenance, and so the id."""
    index = json.loads((folder / "ckptfmt.json").read_bytes())
    index.pop("id")
    index["provenance"].pop("tool")
    found: dict[str, Any] = {"index": index, "files": sorted(os.listdir(folder))}
    for partition in index["partitions"]:
        data = (folder / partition["file"]).read_bytes()
        found[partition["file"]] = (data[:16], data[32:60], data[64:])
    return found


@EACH
def test_the_same_conversion_gives_the_same_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from tests.golden import make_v1

    missing = make_v1.missing_dtypes(name)
    if missing:
        pytest.skip(f"set-up: this torch has no {', '.join(missing)}")
    target = tmp_path / name
    make_v1.convert(name, target)
    assert parts_of(target) == parts_of(V1 / name)
    index = json.loads((V1 / name / "ckptfmt.json").read_bytes())
    if index["provenance"]["tool"] == f"ckptfmt {VERSION}":
        for file in sorted(os.listdir(target)):
            assert (target / file).read_bytes() == (V1 / name / file).read_bytes(), file


@EACH
def test_the_values_beside_it_are_those_that_are_converted(name: str) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from tests.golden import make_v1

    if make_v1.missing_dtypes(name):
        pytest.skip("set-up: this torch lacks some dtypes")
    tensors, _ = make_v1.CHECKPOINTS[name]
    assert [golden.expected for golden in tensors] == json.loads(
        (V1 / f"{name}.json").read_text()
    )


# ---- every flipped bit ----


Flip = Callable[[str, int, int], Any]


@pytest.fixture(params=NAMES)
def flip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flip]:
    """Flip one bit of a copy, verify, flip it back: the problems found."""
    folder = tmp_path / request.param
    shutil.copytree(V1 / request.param, folder)
    for path in folder.iterdir():
        path.chmod(0o644)

    def flip(file: str, offset: int, bit: int) -> list[ckptfmt.Problem]:
        fd = os.open(folder / file, os.O_RDWR)
        try:
            (byte,) = os.pread(fd, 1, offset)
            os.pwrite(fd, bytes([byte ^ 1 << bit]), offset)
            found = ckptfmt.verify(folder).problems
            os.pwrite(fd, bytes([byte]), offset)
        finally:
            os.close(fd)
        assert found, f"bit {bit} of byte {offset} of {file}"
        return found

    flip.folder = folder  # type: ignore[attr-defined]
    yield flip
    assert ckptfmt.verify(folder).ok


def test_every_bit_of_a_header_is_guarded(flip: Any) -> None:
    for number, path in enumerate(sorted(flip.folder.glob("part-*"))):
        # Of the further partitions each byte once.
        for bit in range(0, 8 * 64, 9 if number else 1):
            problems = flip(path.name, bit // 8, bit % 8)
            assert {p.file for p in problems} == {path.name}


def test_the_rest_of_a_partition_is_guarded(flip: Any) -> None:
    index = json.loads((flip.folder / "ckptfmt.json").read_bytes())
    alignment = index["alignment"]
    for number, partition in enumerate(index["partitions"]):
        size = (flip.folder / partition["file"]).stat().st_size
        table = range(size - partition["table_nbytes"], size)
        owners: dict[int, str | None] = dict.fromkeys(table)
        owners |= dict.fromkeys([64, 65, alignment - 1])
        for tensor in index["tensors"]:
            for where, offset, nbytes in tensor["extents"]:
                if where != number:
                    continue
                stop = offset + -(-nbytes // alignment) * alignment
                inside = {offset, offset + nbytes // 2, offset + nbytes - 1}
                inside |= {offset + at for at in ((1 << 20) - 1, 1 << 20) if at < nbytes}
                owners |= dict.fromkeys(inside, tensor["names"][0])
                # Padding belongs to the tensor before it.
                after = {offset + nbytes, stop - 1} if stop > offset + nbytes else set()
                owners |= dict.fromkeys(after, tensor["names"][0])
        for offset, owner in owners.items():
            problems = flip(partition["file"], offset, offset * 5 % 8)
            assert {p.file for p in problems} == {partition["file"]}
            if owner is not None:
                assert {p.tensor for p in problems} == {owner}


def test_every_byte_of_the_index_is_guarded(flip: Any) -> None:
    for offset in range((flip.folder / "ckptfmt.json").stat().st_size):
        problems = flip("ckptfmt.json", offset, offset % 8)
        assert "ckptfmt.json" in {p.file for p in problems}
        assert {p.file for p in problems} <= {"ckptfmt.json", *os.listdir(flip.folder)}


def test_every_bit_of_the_list_of_sums_is_guarded(flip: Any) -> None:
    step = 1 if flip.folder.name == "tiny.ckpt" else 7
    for bit in range(0, 8 * (flip.folder / "SHA256SUMS").stat().st_size, step):
        problems = flip("SHA256SUMS", bit // 8, bit % 8)
        # Which of the two is damaged cannot be told from a sum that differs: both are named.
        assert any("SHA256SUMS" in f"{p.file} {p.message}" for p in problems)


def test_a_copied_file_of_another_checkpoint_is_named(tmp_path: Path) -> None:
    shutil.copytree(V1 / "tiny.ckpt", tmp_path / "a")
    part = tmp_path / "a" / "part-00000.ckptfmt"
    data = bytearray(part.read_bytes())
    # The same checkpoint but for its id: the header's own checksum is right.
    from ckptfmt._core import crc32c

    data[16] ^= 1
    data[60:64] = struct.pack("<I", crc32c(data[:60]))
    part.chmod(0o644)
    part.write_bytes(data)
    with pytest.raises(ckptfmt.FormatError, match="belongs to checkpoint"):
        ckptfmt.open(tmp_path / "a")
    (problem,) = ckptfmt.verify(tmp_path / "a").problems
    assert problem.file == "part-00000.ckptfmt"
