"""How a model comes to be: while its weights are read, around them, without a copy."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
import transformers

import ckptfmt
from ckptfmt.checkpoint import Checkpoint
from ckptfmt.transformers import load_model, save_model
from tests.transformers.models import new

#: Far longer than it takes to make one of the models.
LONG_S = 60


def while_it_is_read(folder: Path) -> None:
    """The read goes on only once the model has been made, and the load only after the read."""
    save_model(new("llama"), folder / "m.ckpt")
    made, waited = threading.Event(), []

    class Watched(transformers.LlamaForCausalLM):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            assert all(p.is_meta for p in self.parameters())
            made.set()

    def progress(done: int, total: int) -> None:
        waited.append(made.wait(LONG_S))

    model = load_model(folder / "m.ckpt", hf_model_class=Watched, progress=progress)
    assert waited
    assert all(waited)
    assert type(model) is Watched


def the_times_of_it(folder: Path) -> None:
    """Spans tell that the model was made between the beginning and the end of the read."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, made = InMemorySpanExporter(), threading.Event()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    save_model(new("llama"), folder / "m.ckpt")

    class Watched(transformers.LlamaForCausalLM):
        def __init__(self, *given: Any, **named: Any) -> None:
            with trace.get_tracer("tests").start_as_current_span("init"):
                super().__init__(*given, **named)
            made.set()

    exporter.clear()
    load_model(
        folder / "m.ckpt", hf_model_class=Watched, progress=lambda done, total: made.wait(LONG_S)
    )
    spans = {span.name: span for span in exporter.get_finished_spans()}
    load, init = spans["ckptfmt.load"], spans["init"]
    assert load.start_time < init.start_time <= init.end_time < load.end_time
    assert load.parent.span_id == spans["ckptfmt.load_model"].context.span_id
    assert spans["ckptfmt.make"].parent.span_id == spans["ckptfmt.load_model"].context.span_id


def without_a_copy(folder: Path) -> None:
    """Parameters lie where the engine has read them to."""
    save_model(new("qwen2"), folder / "m.ckpt")
    places: dict[str, int] = {}
    load = Checkpoint.load

    def watched(self: Checkpoint, *given: Any, **named: Any) -> dict[str, torch.Tensor]:
        found = load(self, *given, **named)
        places.update({name: tensor.data_ptr() for name, tensor in found.items()})
        return found

    Checkpoint.load = watched
    try:
        model = load_model(folder / "m.ckpt")
    finally:
        Checkpoint.load = load
    found = {n: p.data_ptr() for n, p in model.named_parameters(remove_duplicate=False)}
    assert found == places
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 7  # writable, and the checkpoint stays as it is
    assert ckptfmt.verify(folder / "m.ckpt").ok


def tied_by_one_name(folder: Path, name: str) -> None:
    """Whichever of two tied names is stored."""
    model = new("qwen2")
    save_model(model, folder / "m.ckpt", exclude=[name])
    assert name not in ckptfmt.open(folder / "m.ckpt").names
    found = load_model(folder / "m.ckpt")
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)


def tied_though_stored_twice(folder: Path) -> None:
    """Equal values under two names become one parameter, as the model wants."""
    model = new("qwen2")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ckptfmt.save_dict(state, folder / "m.ckpt")
    model.config.save_pretrained(folder / "m.ckpt")
    found = load_model(folder / "m.ckpt")
    assert found.lm_head.weight is found.model.embed_tokens.weight


def statistics(folder: Path) -> None:
    """They are those of the caller's latest load."""
    save_model(new("llama"), folder / "m.ckpt")
    load_model(folder / "m.ckpt")
    stats = ckptfmt.load_stats()
    assert stats is not None
    assert stats.nbytes == ckptfmt.open(folder / "m.ckpt").nbytes
    load_model(folder / "m.ckpt", torch_dtype="bf16")
    assert ckptfmt.load_stats().read_nbytes >= stats.nbytes


def nothing_is_left(folder: Path) -> None:
    """Neither a thread nor a descriptor, whether it succeeds or not."""
    import os

    save_model(new("llama"), folder / "m.ckpt")
    (folder / "m.ckpt" / "config.json").rename(folder / "config.json")
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        try:
            load_model(folder / "m.ckpt")
        except ckptfmt.SourceError as error:
            assert "m.ckpt" in str(error)
        else:
            raise AssertionError
    (folder / "config.json").rename(folder / "m.ckpt" / "config.json")
    load_model(folder / "m.ckpt")
    assert len(os.listdir("/proc/self/fd")) == files
    assert not [t.name for t in threading.enumerate() if t.name.startswith("ckptfmt")]


def several_at_once(folder: Path) -> None:
    """Loads in threads: the library changes torch for all of them, the one must not see it."""
    kinds = [("qwen2", "fp32"), ("llama", "bf16")]
    for kind, dtype in kinds:
        save_model(new(kind, dtype), folder / kind)
    found: list[tuple[str, Any]] = []
    errors: list[Exception] = []

    def load(kind: str) -> None:
        try:
            found.append((kind, load_model(folder / kind)))
        except (ckptfmt.CkptError, RuntimeError, KeyError) as error:
            errors.append(error)

    threads = [threading.Thread(target=load, args=(kind,)) for kind, _ in kinds * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    wanted = {kind: load_model(folder / kind) for kind, _ in kinds}
    for kind, model in found:
        tensors = dict(wanted[kind].named_buffers()) | wanted[kind].state_dict()
        mine = dict(model.named_buffers()) | model.state_dict()
        assert tensors.keys() == mine.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == mine[name].dtype, name
            assert torch.equal(tensor, mine[name]), name
    assert torch.get_default_dtype() == torch.float32
