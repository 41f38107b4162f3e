"""Loading whole and in part: what is read, what is verified, what is told, and when it ends."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from pathlib import Path

import pytest
import torch

import ckptfmt
from ckptfmt import LoadOptions
from tests.helpers.models import equal_bits, random_tensor
from tests.helpers.refusals import refused

BLOCK = 1 << 20
Tensors = dict[str, torch.Tensor]


def _up(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


@pytest.fixture(scope="module")
def many_model() -> Tensors:
    """Twenty tensors from a few bytes to several blocks."""
    sizes = [10, 5000, 4096, 3 * BLOCK + 17, 100, BLOCK, 2 * BLOCK - 1, 7, 300_000, 1]
    return {
        f"layer.{i}.{kind}": random_tensor((n,), torch.uint8, seed=i + 100 * (kind == "b"))
        for kind in "ab"
        for i, n in enumerate(sizes)
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, many_model: Tensors) -> Path:
    """They, in partitions of two megabytes or so."""
    target = tmp_path_factory.mktemp("many") / "x.ckpt"
    ckptfmt.convert(many_model, target, partition_size="2200KiB")
    return target


def _same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    assert [n for n in wanted if not equal_bits(found[n], wanted[n])] == []


# ---- in part ----


@pytest.mark.parametrize("options", [
    LoadOptions(reads="direct"), LoadOptions(reads="buffered"),
    LoadOptions(reads="direct", io="pread", op_nbytes=BLOCK), LoadOptions(),
], ids=["direct", "buffered", "pread", "auto"])  # fmt: skip
def test_a_partial_load_reads_only_the_ranges_it_needs(
    options: LoadOptions, many: Path, many_model: Tensors
) -> None:
    with ckptfmt.open(many, options=options) as checkpoint:
        for name, tensor in many_model.items():
            assert equal_bits(checkpoint[name], tensor)
            stats = checkpoint.load_stats()
            assert stats is not None
            assert (stats.nbytes, stats.verified_nbytes) == (tensor.numel(), tensor.numel())
            extents = checkpoint.info(name).extents
            assert tensor.numel() <= stats.read_nbytes <= sum(_up(e.nbytes) for e in extents)
            files = {checkpoint.index.partitions[e.partition].file for e in extents}
            assert set(stats.files) == files
            told = sum(f.direct_nbytes + f.buffered_nbytes for f in stats.files.values())
            assert told == stats.read_nbytes


def test_names_and_patterns_choose_and_keep_the_files_order(
    many: Path, many_model: Tensors
) -> None:
    with ckptfmt.open(many) as checkpoint:
        assert list(checkpoint) == list(checkpoint.names) == list(checkpoint.keys())
        assert set(checkpoint) == set(many_model)
        assert list(checkpoint.load(["layer.3.b", "layer.0.a"])) == ["layer.0.a", "layer.3.b"]
        assert list(checkpoint.load("layer.?.b")) == [f"layer.{i}.b" for i in range(10)]
        assert list(checkpoint.load(n for n in ("*.3.*", "layer.3.a"))) == [
            "layer.3.a", "layer.3.b",
        ]  # fmt: skip
        assert list(checkpoint.load("layer.[01].a")) == ["layer.0.a", "layer.1.a"]
        assert checkpoint.load([]) == {}
        stats = checkpoint.load_stats()
    assert stats is not None
    assert (stats.nbytes, stats.read_nbytes) == (0, 0)


def test_the_device_may_be_torchs(many: Path) -> None:
    assert len(ckptfmt.load(many, device=torch.device("cpu"))) == 20  # type: ignore[arg-type]


def test_random_parts(many: Path, many_model: Tensors) -> None:
    generator = torch.Generator().manual_seed(3)
    names = list(many_model)
    with ckptfmt.open(many) as checkpoint:
        for _ in range(30):
            chosen = [n for n in names if torch.rand(1, generator=generator) < 0.4]
            _same(checkpoint.load(chosen), {n: many_model[n] for n in chosen})


def test_the_mapping_protocol(many: Path, many_model: Tensors) -> None:
    with ckptfmt.open(many) as checkpoint:
        assert len(checkpoint) == 20
        assert "layer.0.a" in checkpoint
        assert "nothing" not in checkpoint
        assert 5 not in checkpoint
        _same(dict(checkpoint), many_model)
        nbytes = sum(t.numel() for t in many_model.values())
        assert checkpoint.nbytes == nbytes
        assert repr(checkpoint) == f"<Checkpoint {str(many)!r}: 20 tensors, {nbytes} bytes>"


def test_what_is_in_it_is_told_without_reading(many: Path, many_model: Tensors) -> None:
    with ckptfmt.open(many) as checkpoint:
        for name, tensor in many_model.items():
            entry = checkpoint.info(name)
            assert (entry.names, entry.dtype, entry.shape) == ((name,), "U8", tuple(tensor.shape))
            assert entry.nbytes == tensor.numel()
        assert checkpoint.load_stats() is None
        before = checkpoint.metadata
        before["changed"] = "yes"
        checkpoint.provenance["changed"] = "yes"
        assert "changed" not in checkpoint.metadata
        assert "changed" not in checkpoint.provenance


def test_checksums_of_whole_tensors_are_combined(many: Path, many_model: Tensors) -> None:
    from ckptfmt._core import crc32c

    with ckptfmt.open(many) as checkpoint:
        for name, tensor in many_model.items():
            assert checkpoint.crc32c(name) == crc32c(tensor.numpy())


# ---- verified or not ----


@pytest.mark.parametrize(("options", "verified"), [
    ({}, True), ({"verify": None}, True), ({"verify": True}, True), ({"verify": False}, False),
    ({"mmap": True}, False), ({"mmap": True, "verify": True}, True),
    ({"mmap": True, "verify": False}, False), ({"dtype": "fp32"}, True),
    ({"dtype": "fp32", "verify": False}, False),
])  # fmt: skip
def test_what_was_verified_is_told(
    options: dict[str, object], verified: bool, many: Path, many_model: Tensors
) -> None:
    _same(ckptfmt.load(many, **options), many_model)
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.nbytes == sum(t.numel() for t in many_model.values())
    assert stats.verified_nbytes == (stats.nbytes if verified else 0)
    assert stats.engine.startswith("mmap") == ("mmap" in options)


def test_statistics_say_what_ran(many: Path) -> None:
    ckptfmt.load(many, options=LoadOptions(io="pread", reads="direct", threads=3, depth=5))
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert (stats.engine, stats.engine_reason) == ("pread", "asked for")
    assert (stats.threads, stats.depth) == (3, 1)
    ckptfmt.load(many, options=LoadOptions(reads="buffered"))
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.engine == "pread"
    assert all(f.direct_nbytes == 0 and f.reason == "asked for" for f in stats.files.values())
    assert stats.seconds > 0
    assert stats.bottleneck
    assert stats.to_dict()["gb_s"] == stats.gb_s


def test_statistics_belong_to_the_thread(many: Path) -> None:
    ckptfmt.load(many, names="layer.0.a")
    mine = ckptfmt.load_stats()
    other: list[object] = [0]
    thread = threading.Thread(target=lambda: other.append(ckptfmt.load_stats()))
    thread.start()
    thread.join()
    assert other == [0, None]
    assert ckptfmt.load_stats() is mine


@pytest.mark.parametrize(
    "options", [{}, {"mmap": True, "verify": True}, {"dtype": "fp16"}], ids=str
)
def test_progress_is_told_from_this_thread_and_ends_full(
    options: dict[str, object], many: Path
) -> None:
    calls: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    ckptfmt.load(many, progress=progress, **options)
    assert threads == {threading.get_ident()}
    assert calls[-1][0] == calls[-1][1] > 0
    done = [d for d, _ in calls]
    assert done == sorted(done)


def test_an_error_in_progress_ends_the_load(many: Path) -> None:
    def progress(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with ckptfmt.open(many) as checkpoint:
        for options in ({}, {"dtype": "fp16"}):
            with pytest.raises(RuntimeError, match="enough"):
                checkpoint.load(progress=progress, **options)
        assert len(checkpoint.load()) == 20
    assert not [t for t in threading.enumerate() if t.name.startswith("ckptfmt")]


# ---- the end ----


def test_after_close_nothing_is_read_and_tensors_live_on(many: Path, many_model: Tensors) -> None:
    checkpoint = ckptfmt.open(many)
    found, mapped = checkpoint.load(), checkpoint.load(mmap=True)
    stream = checkpoint.stream()
    checkpoint.close()
    checkpoint.close()
    _same(found, many_model)
    _same(mapped, many_model)
    for call in (
        checkpoint.load, lambda: checkpoint["layer.0.a"], lambda: checkpoint.read("layer.0.a"),
        lambda: next(stream), lambda: checkpoint.load(mmap=True),
        lambda: checkpoint.load(dtype="fp16"), lambda: checkpoint.load_into(found),
    ):  # fmt: skip
        refused(ckptfmt.ClosedError, "this checkpoint has been closed", call)
    assert checkpoint.info("layer.0.a").dtype == "U8"


def test_with_closes_also_on_an_error(many: Path) -> None:
    with pytest.raises(ZeroDivisionError), ckptfmt.open(many) as checkpoint:
        _ = 1 / 0
    refused(ckptfmt.ClosedError, "closed", checkpoint.load)


def test_closing_waits_for_a_stream_in_use(many: Path, many_model: Tensors) -> None:
    checkpoint = ckptfmt.open(many)
    stream = checkpoint.stream(max_nbytes=8192)
    first = next(stream)
    checkpoint.close()
    _same(dict([first, *stream]), many_model)
    refused(ckptfmt.ClosedError, "closed", checkpoint.load)


def test_several_threads_share_one_checkpoint(many: Path, many_model: Tensors) -> None:
    wrong: list[str] = []

    def work(kind: str) -> None:
        for _ in range(5):
            found = checkpoint.load(f"*.{kind}")
            wrong.extend(n for n, t in found.items() if not equal_bits(t, many_model[n]))
            wrong.extend(n for n, t in checkpoint.stream(f"*.{kind}", max_nbytes=BLOCK)
                         if not equal_bits(t, many_model[n]))  # fmt: skip

    with ckptfmt.open(many) as checkpoint:
        threads = [threading.Thread(target=work, args=(kind,)) for kind in "abab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_forgotten_checkpoint_closes_its_files(many: Path) -> None:
    def open_files() -> set[str]:
        return {str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()}

    checkpoint = ckptfmt.open(many)
    assert any(str(many) in name for name in open_files())
    del checkpoint
    gc.collect()
    assert not any(str(many) in name for name in open_files())


# ---- errors and copies ----


def test_errors_keep_their_fields_in_a_pickle(tmp_path: Path, many: Path) -> None:
    errors: list[ckptfmt.CkptError] = [
        refused(ckptfmt.NotFoundError, "no such", lambda: ckptfmt.open(tmp_path / "nowhere")),
        refused(ckptfmt.TensorNotFoundError, "no tensor", lambda: ckptfmt.load(many, names="x")),
        ckptfmt.ChecksumError("m", tensor="t", partition="p", offset=3, nbytes=4, hint="h"),
        ckptfmt.FileError(5, "cannot be read", "/a", hint="h"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.hint) == (str(error), error.hint)
        assert vars(again) == vars(error)
        if isinstance(error, ckptfmt.FileError):
            assert (again.errno, again.strerror, again.filename) == (
                error.errno, error.strerror, error.filename,
            )  # fmt: skip


def test_tensors_are_copied_and_pickled_as_any_others(many: Path, many_model: Tensors) -> None:
    for found in (ckptfmt.load(many), ckptfmt.load(many, mmap=True)):
        deep = copy.deepcopy(found)
        _same(deep, many_model)
        deep["layer.0.a"].zero_()
        _same(found, many_model)
        _same(pickle.loads(pickle.dumps(found)), many_model)
