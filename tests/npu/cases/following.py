"""What a program can follow of loads to devices: spans of OpenTelemetry, log lines."""

from __future__ import annotations

import logging

import ckptfmt
from tests.npu.cases.expected import D0, D1, forget_probes, last_stats, load, path_of


def spans() -> None:
    """Each stage is below its load, one that is tried for each device is there for each."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        load("large", {"": D0, "layers.1": D1}, dtype="fp32")
        found = exporter.get_finished_spans()
        names = {span.context.span_id: span.name for span in found}
        tree = sorted((s.name, names[s.parent.span_id] if s.parent else "") for s in found)
        stages = ("allocate", "cast", "open", "plan", "read", "staging", "staging", "start")
        assert tree == sorted(
            [("ckptfmt.load", ""), *((f"ckptfmt.{stage}", "ckptfmt.load") for stage in stages)]
        )
        stats = last_stats()
        by_name = {span.name: dict(span.attributes or {}) for span in found}
        assert by_name["ckptfmt.load"]["ckptfmt.devices"] == stats.devices == (D0, D1)
        assert by_name["ckptfmt.load"]["ckptfmt.staging"] == stats.staging
        assert by_name["ckptfmt.read"]["ckptfmt.read_nbytes"] == stats.read_nbytes
        assert {s.attributes["ckptfmt.device"] for s in found if s.name == "ckptfmt.staging"} == {
            D0, D1,
        }  # fmt: skip
        exporter.clear()
        with ckptfmt.open(path_of("large")) as opened:
            n_tensors = len(list(opened.stream(device=D0, max_nbytes=1 << 20)))
            assert n_tensors == len(opened)
        found = exporter.get_finished_spans()
        (stream,) = [span for span in found if span.name == "ckptfmt.stream"]
        reads = [span for span in found if span.name == "ckptfmt.read"]
        assert len(reads) > 1
        assert {span.parent.span_id for span in reads if span.parent} == {stream.context.span_id}
    finally:
        provider.shutdown()


def lines() -> None:
    """The staging is told when it is chosen, a pool when it is made; and the load itself."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("ckptfmt")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    forget_probes()
    try:
        load("large", D1)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    stats = last_stats()
    assert f"{D1}: staging {stats.staging}" in told
    assert any(line.startswith(f"{D1}: a pool of ") for line in told)
    assert told[-1].startswith(f"loaded {stats.nbytes / 1e6:.2f} MB of ")
    assert f" to {D1} in " in told[-1]
