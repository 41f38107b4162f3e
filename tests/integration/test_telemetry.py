"""What a program can follow: log lines, and spans by the SDK of OpenTelemetry itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt import engine, loading, partitions, pool, staging, target, telemetry
from ckptfmt.stats import LoadStats
from tests.helpers.children import run_child

trace = pytest.importorskip("opentelemetry.trace", reason="needs opentelemetry-sdk")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")


class Spans:
    """The spans that a provider has exported."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def all(self) -> list[Any]:
        """In order of their beginnings."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def tree(self) -> dict[str, str | None]:
        """By name, the parent's name."""
        names = {span.context.span_id: span.name for span in self.all}
        return {s.name: s.parent and names.get(s.parent.span_id) for s in self.all}

    def one(self, name: str) -> Any:
        (found,) = [span for span in self.all if span.name == name]
        return found


@pytest.fixture(scope="module")
def recording() -> Iterator[Spans]:
    spans = Spans()
    trace.set_tracer_provider(spans.provider)
    yield spans
    spans.provider.shutdown()  # nothing is kept of the loads of other tests


@pytest.fixture
def spans(recording: Spans) -> Spans:
    recording.exporter.clear()
    return recording


def damage(checkpoint: Path) -> None:
    """Turn one bit of a tensor."""
    part = checkpoint / "part-00000.ckptfmt"
    data = bytearray(part.read_bytes())
    data[4096] ^= 1
    part.write_bytes(data)


# ---- spans ----


def test_a_load_is_a_span_with_its_stages_and_statistics(checkpoint: Path, spans: Spans) -> None:
    ckptfmt.load(checkpoint)
    assert spans.tree() == {
        "ckptfmt.load": None, "ckptfmt.open": "ckptfmt.load", "ckptfmt.plan": "ckptfmt.load",
        "ckptfmt.read": "ckptfmt.load",
    }  # fmt: skip
    load = spans.one("ckptfmt.load")
    stats = ckptfmt.load_stats()
    assert stats is not None
    expected = {f"ckptfmt.{name}": value for name, value in stats.to_dict().items()}
    del expected["ckptfmt.files"]
    expected["ckptfmt.path"] = str(checkpoint)
    for way in ("direct_nbytes", "buffered_nbytes", "mapped_nbytes"):
        expected[f"ckptfmt.{way}"] = sum(getattr(f, way) for f in stats.files.values())
    assert dict(load.attributes) == expected
    assert load.attributes["ckptfmt.nbytes"] > 0
    assert load.status.status_code is trace.StatusCode.UNSET
    for stage in spans.all:
        assert load.start_time <= stage.start_time <= stage.end_time <= load.end_time
        assert stage.instrumentation_scope.name == "ckptfmt"
        assert stage.instrumentation_scope.version == ckptfmt.__version__
    read = spans.one("ckptfmt.read").attributes
    assert read["ckptfmt.read_nbytes"] == stats.read_nbytes
    assert "ckptfmt.gb_s" not in read


def test_a_load_is_below_the_program_s_own_span(checkpoint: Path, spans: Spans) -> None:
    with trace.get_tracer("program").start_as_current_span("start"):
        with ckptfmt.open(checkpoint) as opened:
            opened.load()
        opened_later = trace.get_current_span()
        assert opened_later.name == "start"
    tree = spans.tree()
    assert (tree["ckptfmt.open"], tree["ckptfmt.load"]) == ("start", "start")


def test_two_loads_are_two_spans(checkpoint: Path, spans: Spans) -> None:
    with ckptfmt.open(checkpoint) as opened:
        opened.load()
        opened.load()
    assert [s.name for s in spans.all].count("ckptfmt.load") == 2


def test_mapped_tensors_are_verified_in_a_stage(checkpoint: Path, spans: Spans) -> None:
    ckptfmt.load(checkpoint, mmap=True, verify=True)
    assert spans.tree()["ckptfmt.verify"] == "ckptfmt.load"
    assert spans.tree()["ckptfmt.read"] == "ckptfmt.verify"


def test_a_cast_reads_in_another_thread_and_below_its_load(checkpoint: Path, spans: Spans) -> None:
    ckptfmt.load(checkpoint, dtype="fp32")
    assert spans.tree()["ckptfmt.read"] == "ckptfmt.load"


def test_filling_is_a_span(
    checkpoint: Path, spans: Spans, model: dict[str, torch.Tensor]
) -> None:
    with ckptfmt.open(checkpoint) as opened:
        opened.load_into(model)
    assert spans.tree()["ckptfmt.read"] == "ckptfmt.load_into"
    assert spans.one("ckptfmt.load_into").attributes["ckptfmt.nbytes"] > 0


def test_a_stream_is_a_span_that_its_caller_s_work_is_not_in(
    checkpoint: Path, spans: Spans
) -> None:
    tracer = trace.get_tracer("program")
    with ckptfmt.open(checkpoint) as opened:
        for name, _ in opened.stream(max_nbytes=1 << 20):
            assert not trace.get_current_span().is_recording()
            with tracer.start_as_current_span(f"use {name}"):
                pass
        nbytes = opened.nbytes
    tree = spans.tree()
    assert tree["ckptfmt.stream"] is None
    assert tree["ckptfmt.read"] == tree["ckptfmt.plan"] == "ckptfmt.stream"
    assert {tree[name] for name in tree if name.startswith("use ")} == {None}
    stream = spans.one("ckptfmt.stream")
    assert stream.attributes["ckptfmt.nbytes"] == nbytes
    assert stream.attributes["ckptfmt.path"] == str(checkpoint)


def test_a_stream_that_is_left_early_has_not_failed(checkpoint: Path, spans: Spans) -> None:
    with ckptfmt.open(checkpoint) as opened:
        stream = opened.stream(max_nbytes=1 << 20)
        next(stream)
        stream.close()
    assert spans.one("ckptfmt.stream").status.status_code is trace.StatusCode.UNSET


def test_a_failure_is_on_every_span_that_it_passed(checkpoint: Path, spans: Spans) -> None:
    damage(checkpoint)
    with pytest.raises(ckptfmt.ChecksumError):
        ckptfmt.load(checkpoint)
    for name in ("ckptfmt.read", "ckptfmt.load"):
        span = spans.one(name)
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.status.description.startswith("ChecksumError: ")
        (event,) = span.events
        assert event.attributes["exception.type"] == "ckptfmt.errors.ChecksumError"
    assert spans.one("ckptfmt.open").status.status_code is trace.StatusCode.UNSET


def test_what_cannot_be_opened_is_a_failed_load(spans: Spans, tmp_path: Path) -> None:
    with pytest.raises(ckptfmt.NotFoundError):
        ckptfmt.load(tmp_path / "nowhere")
    assert spans.one("ckptfmt.load").status.status_code is trace.StatusCode.ERROR
    with pytest.raises(ckptfmt.NotFoundError):
        ckptfmt.load(str(tmp_path) + "/\udcff")  # a name that is no text
    assert spans.all[-1].attributes["ckptfmt.path"].endswith("\\udcff")


def test_an_interrupted_load_says_so(checkpoint: Path, spans: Spans) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ckptfmt.load(checkpoint, progress=interrupt)
    assert spans.one("ckptfmt.load").status.description == "KeyboardInterrupt: "


def test_a_conversion_is_a_span(spans: Spans, tmp_path: Path) -> None:
    report = ckptfmt.convert({"a": torch.ones(5)}, tmp_path / "a.ckpt")
    found = spans.one("ckptfmt.convert").attributes
    assert found["ckptfmt.nbytes"] == 20
    assert found["ckptfmt.checkpoint_id"] == report.checkpoint_id


def test_devices_add_up_on_a_stage(spans: Spans) -> None:
    with telemetry.span("read") as span:
        span.tell(
            LoadStats(read_nbytes=2, seconds=1.0, devices=("npu:0",)),
            LoadStats(read_nbytes=3, seconds=2.0, devices=("npu:1",)),
        )
    found = spans.one("ckptfmt.read").attributes
    assert found["ckptfmt.read_nbytes"] == 5
    assert found["ckptfmt.seconds"] == 2.0
    assert found["ckptfmt.devices"] == ("npu:0", "npu:1")


LOAD = """
import sys
{before}
import ckptfmt, json, logging
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("ckptfmt").addHandler(handler)
found = ckptfmt.load(sys.argv[1], framework="numpy")
with ckptfmt.open(sys.argv[1]) as opened:
    assert [name for name, _ in opened.stream(framework="numpy")] == list(found)
print(json.dumps([sorted(m for m in sys.modules if m.startswith("opentelemetry")), lines]))
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A checkpoint that numpy has all dtypes for."""
    ckptfmt.convert({"a": torch.ones(1 << 18), "b": torch.ones(7)}, tmp_path / "plain.ckpt")
    return tmp_path / "plain.ckpt"


def test_a_program_without_use_for_it_never_imports_the_api(plain: Path) -> None:
    done = run_child(LOAD.format(before=""), plain)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]


def test_loads_work_without_the_package(plain: Path) -> None:
    """Also if the environment speaks of it: which is said once."""
    before = "sys.modules['opentelemetry'] = None"
    done = run_child(LOAD.format(before=before), plain, OTEL_PYTHON_TRACER_PROVIDER="sdk")
    assert done.returncode == 0, done.stderr
    modules, lines = json.loads(done.stdout)
    assert modules == ["opentelemetry"]  # the None of above
    assert len(lines) == 1
    assert lines[0].startswith("OTEL_PYTHON_TRACER_PROVIDER is set, but there is no OpenTelemetry")


def test_a_provider_that_the_environment_names_is_used(plain: Path) -> None:
    named = {telemetry.PROVIDER: "sdk_tracer_provider"}
    done = run_child(LOAD.format(before=""), plain, **named)
    assert done.returncode == 0, done.stderr
    modules, lines = json.loads(done.stdout)
    assert "opentelemetry.sdk.trace" in modules
    assert lines == []


# ---- log lines ----


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    telemetry.warn_once.cache_clear()
    with caplog.at_level(logging.INFO, "ckptfmt"):
        yield caplog
    telemetry.warn_once.cache_clear()


def messages(lines: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in lines.records if record.levelno == level]


def test_a_load_is_one_line_that_has_its_statistics(
    checkpoint: Path, lines: pytest.LogCaptureFixture
) -> None:
    ckptfmt.load(checkpoint)
    (record,) = lines.records
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert (record.name, record.levelno) == ("ckptfmt", logging.INFO)
    assert record.__dict__["stats"] == stats.to_dict()
    message = record.getMessage()
    assert message.startswith(f"loaded {stats.nbytes / 1e6:.2f} MB of {checkpoint} to cpu in ")
    for part in (f"{stats.gb_s:.2f} GB/s", stats.engine, f"{stats.threads} threads",
                 stats.staging, stats.bottleneck):  # fmt: skip
        assert part in message


@pytest.mark.parametrize("way", ["direct", "buffered"])
def test_a_line_says_how_it_was_read(
    checkpoint: Path, lines: pytest.LogCaptureFixture, way: Any
) -> None:
    ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(reads=way))
    (stats,) = [record.__dict__["stats"] for record in lines.records]
    ways = {w for f in stats["files"].values() for w in ("direct", "buffered") if f[f"{w}_nbytes"]}
    for found in ways:
        assert f" MB {found}" in lines.messages[0]


def test_other_jobs_have_a_line_each(
    lines: pytest.LogCaptureFixture, tmp_path: Path, source: Path,
    model: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    target = tmp_path / "new.ckpt"
    ckptfmt.convert(source, target)
    with ckptfmt.open(target) as opened:
        opened.load_into(model)
        assert len(list(opened.stream())) == len(model)
        stream = opened.stream(max_nbytes=1)
        next(stream)
        stream.close()
        found = messages(lines, logging.INFO)
        jobs = [line.split()[0] for line in found]
        assert jobs == ["converted", "loaded", "streamed", "streamed"]
        assert f"{opened.nbytes / 1e6:.2f} MB of {target}" in found[2]
    assert f"tensors in 1 partitions, to {target} in " in found[0]
    assert ckptfmt.convert(source, target, dry_run=True, force=True)
    assert len(messages(lines, logging.INFO)) == 4


def test_choices_are_told_to_who_wants_to_know(
    checkpoint: Path, lines: pytest.LogCaptureFixture
) -> None:
    lines.set_level(logging.DEBUG, "ckptfmt")
    ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(io="pread", reads="buffered", threads=3))
    found = messages(lines, logging.DEBUG)
    assert f"{checkpoint}/part-00000.ckptfmt: asked for" in found
    assert any("reads for cpu, 0 of them direct: pread (asked for), threads " in f for f in found)


def refuse_io_uring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "io_uring_errno", lambda: 1)


def test_a_fallback_from_io_uring_is_a_warning_once(
    checkpoint: Path, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_io_uring(monkeypatch)
    for _ in range(2):
        ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(reads="direct"))
    stats = ckptfmt.load_stats()
    assert stats is not None
    if not any(file.direct_nbytes for file in stats.files.values()):
        pytest.skip("this file system has no direct reads")
    reason = "io_uring: Operation not permitted"
    assert messages(lines, logging.WARNING) == [
        f"direct reads are made by pread, a thread for each: {reason}"
    ]


def test_what_was_asked_for_is_no_fallback(
    checkpoint: Path, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_io_uring(monkeypatch)
    ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(io="pread", reads="direct"))
    ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(reads="buffered"))
    assert messages(lines, logging.WARNING) == []


def test_direct_reads_asked_for_and_refused_are_a_warning(
    checkpoint: Path, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "O_DIRECT refused: Invalid argument"
    monkeypatch.setattr(partitions, "open_direct", lambda *args: (-1, reason))
    ckptfmt.load(checkpoint)
    assert messages(lines, logging.WARNING) == []  # as it is here, and nothing else was asked for
    for _ in range(2):
        ckptfmt.load(checkpoint, options=ckptfmt.LoadOptions(reads="direct"))
    assert messages(lines, logging.WARNING) == [
        f"{checkpoint}: read through the page cache, not directly: {reason}"
    ]


def test_memory_without_huge_pages_is_a_warning(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Memory", lambda nbytes: SimpleNamespace(huge_pages=False))
    loading.allocate(1 << 20)
    assert messages(lines, logging.WARNING) == []
    loading.allocate(loading.FEW_PAGES_NBYTES)
    assert len(messages(lines, logging.WARNING)) == 1


@pytest.mark.parametrize(("letter", "level"), [("A", logging.DEBUG), ("D", logging.WARNING)])
def test_a_worse_staging_than_the_device_s_best_is_a_warning(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, letter: str, level: int
) -> None:
    lines.set_level(logging.DEBUG, "ckptfmt")
    chosen = staging.Staging("npu", letter, ("not A: refused",) if letter == "D" else ())
    monkeypatch.setattr(staging, "_choose", lambda *args: chosen)
    monkeypatch.setattr(staging, "_chosen", {})
    device: Any = SimpleNamespace(name="npu:0", kind="npu", stagings=("A", "B", "C", "D"))
    for _ in range(2):
        assert staging.choose(device, [], ckptfmt.LoadOptions()) is chosen
    assert messages(lines, level) == [f"npu:0: staging {chosen}"]


def test_a_pool_that_memory_is_too_scarce_for_is_a_warning(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "available_nbytes", lambda: 400 << 20)
    options = ckptfmt.LoadOptions()
    assert pool.pool_nbytes(options, "A", shared=False, pools=1) == 100 << 20
    assert messages(lines, logging.WARNING) == [
        f"memory is scarce: a pool of at most {100 << 20} bytes, not {256 << 20}"
    ]
    assert pool.pool_nbytes(replace(options, pool_nbytes=64 << 20), "A", shared=False, pools=1)
    assert len(messages(lines, logging.WARNING)) == 1


def test_nothing_is_shown_unless_the_program_says_so(plain: Path) -> None:
    code = (
        "import sys, ckptfmt\n"
        "from ckptfmt import engine\n"
        "engine.io_uring_errno = lambda: 1\n"
        "ckptfmt.load(sys.argv[1], framework='numpy')\n"
        "from ckptfmt.telemetry import log\n"
        "log.warning('something slow')\n"
    )
    done = run_child(code, plain, CKPTFMT_READS="direct")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_folders_that_cannot_be_exchanged_are_a_warning(
    lines: pytest.LogCaptureFixture, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: str, new: str) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(target, "_core", SimpleNamespace(rename_exchange=refuse))
    ckptfmt.convert({"a": torch.ones(5)}, plain, force=True)
    assert messages(lines, logging.WARNING) == [
        f"{plain}: folders cannot be exchanged here (Invalid argument), so for a moment there is "
        "none of this name"
    ]
    assert list(ckptfmt.load(plain)) == ["a"]


def test_workers_that_lose_their_ring_are_a_warning(
    lines: pytest.LogCaptureFixture, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring could be set up when that was tried, and cannot be by one of the workers."""
    real = engine._core.Engine

    class WithoutRing:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.__dict__["real"] = real(*args, **options)

        def __getattr__(self, name: str) -> Any:
            if name in ("ring_errno", "without_ring"):
                return {"ring_errno": 12, "without_ring": 1}[name]
            return getattr(self.__dict__["real"], name)

    changed = SimpleNamespace(**{**vars(engine._core), "Engine": WithoutRing})
    monkeypatch.setattr(engine, "_core", changed)
    ckptfmt.load(plain, options=ckptfmt.LoadOptions(reads="buffered", threads=2, op_nbytes=1 << 20))
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.engine_reason.startswith("io_uring: Cannot allocate memory")
    assert messages(lines, logging.WARNING) == [
        f"workers had to do without io_uring: {stats.engine_reason}"
    ]
