"""Options: every limit, and what the environment says."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from ckptfmt import layout
from ckptfmt.errors import CkptError, OptionError
from ckptfmt.options import ConvertOptions, LoadOptions

MIB = 1 << 20


def test_defaults_of_a_conversion() -> None:
    options = ConvertOptions()
    assert options.alignment == 4096
    assert options.partition_nbytes == 4000 * MIB < 4 << 30
    assert options.dtype == "keep"
    assert not options.force
    assert not options.resume


@pytest.mark.parametrize("alignment", [4096 << i for i in range(10)])
def test_alignments_that_the_format_has(alignment: int) -> None:
    assert ConvertOptions(alignment=alignment).alignment == alignment
    layout.check_alignment(alignment, "index")


@pytest.mark.parametrize("alignment", [0, -4096, 1, 512, 4095, 4097, 12288, 4 << 20])
def test_another_alignment_is_refused(alignment: int) -> None:
    with pytest.raises(OptionError, match=f"alignment {alignment} is no power of two"):
        ConvertOptions(alignment=alignment)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_conversion_has_a_worker(workers: int) -> None:
    with pytest.raises(OptionError, match=f"workers is {workers}, expected at least 1"):
        ConvertOptions(workers=workers)


@pytest.mark.parametrize("dtype", ["bf16", "BFLOAT16", "torch.bfloat16"])
def test_a_cast_has_one_spelling(dtype: str) -> None:
    assert ConvertOptions(dtype=dtype).dtype == "bf16"


def test_an_unknown_cast_is_refused() -> None:
    with pytest.raises(CkptError, match="cannot cast to 'fp8'"):
        ConvertOptions(dtype="fp8")


def test_only_what_decides_the_bytes_is_kept_for_resuming() -> None:
    given = {
        "dtype": "fp16", "alignment": 8192, "partition_nbytes": 5 * MIB, "include": ("a*",),
        "exclude": ("b",),
    }  # fmt: skip
    content = ConvertOptions(**given, workers=7, force=True, resume=True).content()
    assert content == {**given, "include": ["a*"], "exclude": ["b"]}


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        LoadOptions().threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("io", "uring", "expected one of auto, io_uring, pread"),
        ("io", "", "expected one of auto, io_uring, pread"),
        ("reads", "mmap", "expected one of auto, direct, buffered"),
        ("threads", -1, "threads is -1, expected 0 to 256"),
        ("threads", 257, "threads is 257, expected 0 to 256"),
        ("depth", 0, "depth is 0, expected 1 to 256"),
        ("depth", 257, "depth is 257, expected 1 to 256"),
        ("op_nbytes", 0, "op_nbytes is 0, expected 1048576 to 7340032"),
        ("op_nbytes", 8 * MIB, "op_nbytes is 8388608, expected 1048576 to 7340032"),
        ("op_nbytes", MIB + 4096, "expected a multiple of 1 MiB"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LoadOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("io", "io_uring"), ("io", "pread"), ("reads", "direct"), ("reads", "buffered"),
        ("threads", 0), ("threads", 256), ("depth", 1), ("depth", 256), ("op_nbytes", MIB),
        ("op_nbytes", 7 * MIB),
    ],
)  # fmt: skip
def test_limits_are_allowed(name: str, value: object) -> None:
    assert getattr(LoadOptions(**{name: value}), name) == value  # type: ignore[arg-type]


def test_a_read_in_flight_never_exceeds_8_mib() -> None:
    assert LoadOptions(op_nbytes=7 * MIB).op_nbytes + layout.BLOCK_NBYTES == 8 * MIB


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"IO": "pread", "READS": "direct", "THREADS": "3", "DEPTH": " 5 ", "OP_NBYTES": "2MiB"}
    for name, text in given.items():
        monkeypatch.setenv(f"CKPTFMT_{name}", text)
    assert LoadOptions.from_environment() == LoadOptions(
        io="pread", reads="direct", threads=3, depth=5, op_nbytes=2 * MIB
    )


def test_an_empty_environment_means_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTFMT_IO", "")
    monkeypatch.setenv("CKPTFMT_THREADS", "")
    assert LoadOptions.from_environment() == LoadOptions()


@pytest.mark.parametrize("name", ["THREADS", "DEPTH", "OP_NBYTES"])
@pytest.mark.parametrize("text", ["many", "-1", "1.5", " "])
def test_a_variable_that_is_no_number_is_named(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CKPTFMT_{name}", text)
    with pytest.raises(OptionError, match=f"CKPTFMT_{name}: "):
        LoadOptions.from_environment()


@pytest.mark.parametrize(
    ("name", "text"),
    [("IO", "uring"), ("READS", "x"), ("DEPTH", "0"), ("THREADS", "1000"), ("OP_NBYTES", "4095")],
)
def test_a_variable_out_of_range_is_refused(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CKPTFMT_{name}", text)
    with pytest.raises(OptionError, match=f"(?i){name} is .*expected"):
        LoadOptions.from_environment()
