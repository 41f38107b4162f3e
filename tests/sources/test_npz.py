"""NumPy archives: what streaming has to get right, and what an archive may try."""

from __future__ import annotations

import errno
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptfmt
from ckptfmt.sources import npz
from tests.helpers.children import run_child
from tests.helpers.formats import write_npz
from tests.helpers.handmade import flip
from tests.helpers.models import random_tensor
from tests.helpers.refusals import refused
from tests.integration.test_wrong_sources import Danger
from tests.sources.test_formats import converted, same


def npy(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def archive(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path = folder / "model.npz"
    with zipfile.ZipFile(path, "w", method) as stream:
        for name, data in members.items():
            stream.writestr(name, data)
    return path


@pytest.mark.parametrize("window", [1, 5 << 20])
def test_threads_that_come_late_get_their_bytes(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "WINDOW_NBYTES", window)
    monkeypatch.setattr(npz, "OPEN_MEMBERS", 1)
    tensors = {n: random_tensor((1500, 2000), torch.float32, i) for i, n in enumerate("ab")}
    source = write_npz(tmp_path, tensors)
    assert same(ckptfmt.load(converted(source, tmp_path, workers=6)), tensors)


def test_any_part_can_be_read_in_any_order(tmp_path: Path) -> None:
    wanted = random_tensor((5000, 1000), torch.int8)
    source = npz.NpzSource(str(write_npz(tmp_path, {"x": wanted}).parent), "model.npz")
    for start, nbytes in ((4_000_000, 1_000_000), (0, 10), (2_999_999, 3), (4_999_999, 1)):
        buffer = memoryview(bytearray(nbytes))
        source.read_into(0, start, buffer)
        assert bytes(buffer) == wanted.view(-1)[start : start + nbytes].numpy().tobytes()
    source.close()
    source.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_in_fortran_order_are_turned(method: int, tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(2_000_000, dtype=np.int32).reshape(1000, 20, 100))
    source = archive(tmp_path, {"x.npy": npy(array), "y.npy": npy(array[:, 0, 0])}, method)
    found = ckptfmt.load(converted(source, tmp_path), framework="numpy")
    assert (found["x"] == array).all()
    assert (found["y"] == array[:, 0, 0]).all()


def test_a_disk_that_cannot_hold_what_has_to_be_turned_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = archive(tmp_path, {"x.npy": npy(np.asfortranarray(np.ones((3, 4))))})
    monkeypatch.setattr(npz.tempfile, "TemporaryFile", Full)
    refused(
        ckptfmt.FileError, "cannot hold an array in Fortran order: No space",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


def test_a_byte_that_flipped_in_an_array_is_noticed(tmp_path: Path) -> None:
    source = write_npz(tmp_path, {"x": torch.zeros(5000)})
    flip(source, 10_000)
    refused(
        ckptfmt.SourceError, "array 'x': Bad CRC-32",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


OTHERS = {
    "big-endian": (np.ones(3, ">f4"), ">f4"),
    "fields": (np.zeros(3, [("a", "i4"), ("b", "f8")]), "'a'"),
    "text": (np.array(["abc"]), "<U3"),
    "long double": (np.ones(3, np.longdouble), "float128"),
    "dates": (np.array(["2024-01-01"], "M8[D]"), "datetime64"),
    "bfloat16 of another package": (np.zeros(3, "V2"), "|V2"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_dtype_that_cannot_be_stored_is_refused_or_left_out(what: str, tmp_path: Path) -> None:
    array, kind = OTHERS[what]
    np.savez(tmp_path / "model.npz", x=np.ones(2, np.float32), other=array)
    source, target = tmp_path / "model.npz", tmp_path / "x.ckpt"
    error = refused(
        ckptfmt.UnsupportedDtypeError, "1 of the tensors cannot be stored, the first 'other': ",
        lambda: ckptfmt.convert(source, target), "--exclude leaves tensors out",
    )  # fmt: skip
    assert kind in str(error)
    assert ckptfmt.convert(source, target, exclude="other").dropped == ["other"]
    assert ckptfmt.verify(target, against=source).compared == 1


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    objects = np.array([Danger(str(tmp_path / "ran"))], dtype=object)
    source = archive(tmp_path, {"x.npy": npy(np.ones(2)), "o.npy": npy(objects, allow_pickle=True)})
    target = tmp_path / "x.ckpt"
    refused(
        ckptfmt.UnsupportedDtypeError, "'o': pickled objects",
        lambda: ckptfmt.convert(source, target),
    )  # fmt: skip
    ckptfmt.convert(source, target, exclude=["o"])
    assert list(ckptfmt.load(target)) == ["x"]
    assert not (tmp_path / "ran").exists()


def test_names_that_are_paths_are_only_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one = npy(np.ones(2))
    source = archive(tmp_path / "a", {"../../etc/x.npy": one, "/y.npy": one})
    assert set(ckptfmt.load(converted(source, tmp_path / "a"))) == {"../../etc/x", "/y"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


# ---- what an archive may try ----


def patched(path: Path, signature: bytes, changes: dict[int, bytes], number: int = 0) -> Path:
    """Bytes of one of the records that begin with `signature`, replaced."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(number + 1):
        at = data.index(signature, at + 1)
    for offset, new in changes.items():
        data[at + offset : at + offset + len(new)] = new
    path.write_bytes(data)
    return path


def _bomb_of_overlaps(folder: Path) -> Path:
    """Two entries of the directory lead to the same bytes."""
    path = archive(folder, {"a.npy": npy(np.ones(9)), "b.npy": npy(np.ones(9))})
    return patched(path, b"PK\1\2", {42: struct.pack("<I", 0)}, number=1)


def _size_that_no_deflate_has(folder: Path) -> Path:
    path = archive(folder, {"a.npy": npy(np.ones(9))}, zipfile.ZIP_DEFLATED)
    return patched(path, b"PK\1\2", {24: struct.pack("<I", 1 << 31)})


def _header_beyond_the_member(folder: Path) -> Path:
    header = npy(np.zeros(1 << 20, np.int8))[:128]
    return archive(folder, {"a.npy": header + bytes(100)})


def _other_packing(folder: Path) -> Path:
    return archive(folder, {"a.npy": npy(np.zeros(9))}, zipfile.ZIP_BZIP2)


def _no_array(folder: Path) -> Path:
    return archive(folder, {"a.npy": b"hello"})


def _pickle(folder: Path) -> Path:
    return archive(folder, {"a.npy": pickle.dumps(Danger(str(folder / "ran")))})


def _header_that_nests(folder: Path) -> Path:
    text = b"(" * 9000
    return archive(folder, {"a.npy": b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text})


def _negative(folder: Path) -> Path:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}\n"
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64)
    return archive(folder, {"a.npy": data})


def _twice(folder: Path) -> Path:
    return archive(folder, {"a.npy": npy(np.ones(9)), "a": npy(np.ones(9))})


def _encrypted(folder: Path) -> Path:
    path = archive(folder, {"a.npy": npy(np.ones(9))})
    return patched(path, b"PK\1\2", {8: struct.pack("<H", 1)})


def _no_zip(folder: Path) -> Path:
    (folder / "model.npz").write_bytes(npy(np.ones(9)))
    return folder / "model.npz"


HOSTILE = {
    "overlapping members": (_bomb_of_overlaps, "overlaps what follows it in the archive: a zip bo"),
    "a size that lies": (_size_that_no_deflate_has, "claims 2147483648 bytes, which its"),
    "a shape that lies": (_header_beyond_the_member, "has 100 bytes, int8 .* needs 1048576"),
    "another packing": (_other_packing, "packed in a way no checkpoint is"),
    "no array": (_no_array, "array 'a': "),
    "a pickle": (_pickle, "array 'a': "),
    "a header that nests": (_header_that_nests, "array 'a': "),
    "a negative shape": (_negative, r"has the shape \[-4, -4\]"),
    "a name twice": (_twice, "'a' stands twice"),
    "encrypted": (_encrypted, "'a.npy' is encrypted"),
    "no zip": (_no_zip, "not a zip archive"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    make, message = HOSTILE[what]
    source = make(tmp_path)
    refused(ckptfmt.SourceError, message, lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_members_are_counted_before_objects_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archive(tmp_path, {f"{i}.npy": npy(np.ones(1)) for i in range(20)})
    monkeypatch.setattr("ckptfmt.sources.limits.MAX_TENSORS", 19)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refused(
        ckptfmt.SourceError, "lists 20 tensors, at most 19",
        lambda: ckptfmt.convert(source, tmp_path / "x.ckpt"),
    )  # fmt: skip


def test_a_target_that_has_no_room_for_what_a_bomb_holds_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest header over zeros: a megabyte that is a gigabyte. Only the disk says no."""
    with (
        zipfile.ZipFile(tmp_path / "model.npz", "w", zipfile.ZIP_DEFLATED) as stream,
        stream.open("a.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|i1", "fortran_order": False, "shape": (100 << 20,)}
        )
        for _ in range(100):
            member.write(bytes(1 << 20))
    free = type("Free", (), {"f_bavail": 1, "f_frsize": 4096})
    monkeypatch.setattr("os.statvfs", lambda path: free)
    refused(
        ckptfmt.FileError, r"needs 104\.86 MB, 4\.10 kB are free",
        lambda: ckptfmt.convert(tmp_path / "model.npz", tmp_path / "x.ckpt"),
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for order in (False, True):
            with z.open(f"{order}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|i1", "fortran_order": order, "shape": (1000, 600_000)}
                )
                for _ in range(600):
                    member.write(bytes(1_000_000))
    child = run_child(
        "import ckptfmt, resource, sys\n"
        "import numpy\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ckptfmt.convert(sys.argv[1], sys.argv[2], include=sys.argv[3])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)",
        tmp_path / "model.npz", tmp_path / "x.ckpt", "False",
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 200 << 10
