"""The report of a bench as a file: what is in it, what odd records make of it, its size."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from random import Random
from typing import Any

import pytest

from ckptfmt.bench.page import render
from ckptfmt.bench.page_tables import gained
from ckptfmt.bench.page_timeline import IN_FLIGHT, KINDS, WORKERS, thin, timeline
from ckptfmt.bench.page_words import axis, figure, rate, shown, ticks
from tests.helpers import bench_records

#: Elements without an end.
VOID = {"meta", "rect", "line", "circle", "path", "br"}


class Page(HTMLParser):
    """A page's elements, texts and attributes; each element has to end where it should."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that can be read."""
        return " ".join(" ".join(self.texts).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.seen}


def test_a_page_tells_what_limits_and_how_much_of_it_is_reached() -> None:
    page = Page(render(bench_records.cold()))
    assert "The disk is the limit: the load reaches 95 % of what it gives." in page.text
    assert "A faster disk, or several of them" in page.text
    assert "Best setting found: CKPTFMT_DEPTH=16 gives 1.92 GB/s, +1 %." in page.text
    for part in ("1.90 GB/s", "1.84 to 1.95", "6.17 GB", "434 tensors in 2 files", "1.09 ×",
                 "Run:ai Model Streamer", "safetensors.torch.load_file", "31.4 GB/s",
                 "direct reads by io_uring, 2 threads, 8 deep", "4 MiB", "Some Processor 9000",
                 "18 of 471 windows cached", "The processors ran at"):  # fmt: skip
        assert part in page.text, part


def test_a_limit_that_is_not_reached_is_only_the_nearest() -> None:
    text = Page(render(bench_records.device())).text
    assert "The nearest ceiling is the link to the device; the load reaches 61 % of it." in text


def test_a_page_has_no_script_and_asks_for_nothing() -> None:
    page = Page(render(bench_records.cold()))
    assert not page.tags() & {"script", "link", "img", "iframe", "object", "form", "image", "use"}
    for tag, attributes in page.seen:
        assert not {"src", "href", "xlink:href"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    (policy,) = (a["content"] for tag, a in page.seen if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "url(" not in render(bench_records.cold())
    assert "@import" not in render(bench_records.cold())


NASTY = "</title></style><script>alert('1')</script>&amp;\" onload='x' \u202e\x00\udcff\n"


def nasty(value: Any) -> Any:
    """Every text of a record, and every name in it, with something in it that must not act."""
    if isinstance(value, str):
        return value + NASTY if value not in KINDS else value
    if isinstance(value, dict):
        return {k: nasty(v) for k, v in value.items()}
    return [nasty(one) for one in value] if isinstance(value, list) else value


def test_every_text_of_a_record_is_data() -> None:
    plain = bench_records.cold()
    plain["machine"][NASTY] = plain["settings"][NASTY] = NASTY
    plain["load"]["stats"]["files"][NASTY] = {"reason": NASTY}
    plain["best"]["environment"] = {NASTY: NASTY}
    usual = Page(render(bench_records.cold())).tags()
    source = render(nasty(plain))
    page = Page(source)
    assert page.tags() <= usual
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert source.count("<style>") == source.count("</style>") == 1
    assert "<script>alert('1')</script>&amp;" in page.text  # as it is written, read by nobody
    assert "\\u202e\\x00\\udcff\\n" in page.text
    assert all(c.isprintable() or c == "\n" for c in source)
    source.encode()


def test_an_empty_record_is_a_page() -> None:
    page = Page(render({}))
    assert "No load was measured." in page.text
    assert "svg" not in page.tags()


@pytest.mark.parametrize("key", sorted(bench_records.cold()))
@pytest.mark.parametrize("value", [None, [], {}, "text", 0, math.nan], ids=repr)
def test_a_part_that_is_missing_or_odd_leaves_the_others(key: str, value: object) -> None:
    record = bench_records.cold()
    record[key] = value
    text = Page(render(record)).text
    if key not in ("ckptfmt", "device", "path", "repeat", "time"):  # texts, whatever they say
        assert "nan" not in text
    assert ("What a setting would gain" in text) == (key != "gains")
    assert ("The machine" in text) == (key != "machine")


def test_figures_that_are_missing_are_dashes() -> None:
    record = bench_records.cold()
    for part in (record["load"], record["limit"], *record["ceilings"], *record["contenders"]):
        part.update(gb_s=None, runs_gb_s=[], reached=None)
    for gain in record["gains"]:
        gain.update(dict.fromkeys(gain, None))
    text = Page(render(record)).text
    assert "– GB/s" not in text
    assert "None" not in text
    assert text.count("–") > len(record["ceilings"])


def test_odd_figures_draw_nothing_that_is_no_figure() -> None:
    record = bench_records.cold()
    record["load"].update(gb_s=math.inf, runs_gb_s=[math.nan, "1", True, -1, 1.9])
    record["throughput"] = [[0, math.nan], [1], None, ["0", 1], [-1, 2], [0.5, 1.0], [0.1, 2.0]]
    record["timeline"]["workers"] = [
        None, {}, {"events": None}, {"name": "x", "events": [
            [], [0, 1], [1, 0, "read", 1], [0, math.nan, "read", 1], [0, 1, "sleep", 0],
            [0.0, 0.5, "verify"], ["0", 1, "read", 1],
        ]},
    ]  # fmt: skip
    source = render(record)
    assert "nan" not in source
    assert "inf" not in source.replace("info", "")
    found = timeline(record)
    assert [lane.name for lane in found.lanes] == ["x"]
    assert found.lanes[0].seconds["verify"] == 0.5
    assert found.rates == [(0.1, 2.0), (0.5, 1.0)]


# ---- thinning ----


def test_thinning_loses_no_time_and_invents_none() -> None:
    random = Random(3)
    events, now = [], 0.0
    for _ in range(5000):
        end = now + random.random() / 1000
        events.append((now, end, random.choice(KINDS)))
        now = end + random.random() / 2000
    lane = thin(events, now, 100)
    for kind in KINDS:
        exact = sum(end - begin for begin, end, k in events if k == kind)
        assert lane.seconds[kind] == pytest.approx(exact)
        assert sum(lane.shares[kind]) * now / 100 == pytest.approx(exact)
    columns = [sum(shares) for shares in zip(*lane.shares.values(), strict=True)]
    assert max(columns) <= 1 + 1e-9


def test_what_hides_the_other_is_what_the_worker_does() -> None:
    """A checksum within a buffered read; reads in flight behind everything else."""
    lane = thin(
        [(0.0, 4.0, "read"), (1.0, 4.0, "read"), (0.0, 2.0, "buffered read"), (1.0, 2.0, "verify"),
         (2.0, 3.0, "wait for disk")], 4.0, 4,
    )  # fmt: skip
    assert lane.shares["buffered read"] == [1, 0, 0, 0]
    assert lane.shares["verify"] == [0, 1, 0, 0]
    assert lane.shares["wait for disk"] == [0, 0, 1, 0]
    assert lane.shares["read"] == [0, 0, 0, 1]
    assert lane.in_flight["read"] == [1, 2, 2, 2]
    assert lane.most == {"read": 2, "copy": 0}


def test_an_event_at_the_very_end_is_in_the_last_column() -> None:
    lane = thin([(0.9, 1.0, "verify"), (0.0, 1e-12, "copy")], 1.0, 10)
    assert lane.shares["verify"] == pytest.approx([0] * 9 + [1])


@pytest.mark.parametrize("workers", [1, 16, 200])
def test_a_page_stays_small_whatever_was_recorded(workers: int) -> None:
    random = Random(workers)
    record = bench_records.cold()
    each = (100_000 if workers == 1 else 50_000) // workers
    record["timeline"] = {"seconds": 60.0, "workers": [
        {"name": f"worker {n}", "device": f"npu:{n % 8}", "events": [
            [begin, begin + 0.02 * random.random(), random.choice(KINDS), 1 << 22]
            for begin in (60 * random.random() for _ in range(each))
        ]}
        for n in range(workers)
    ]}  # fmt: skip
    record["throughput"] = [[0.001 * i, random.random()] for i in range(60_000)]
    record["load"]["runs_gb_s"] = [1.9 + random.random() / 10 for _ in range(1000)]
    source = render(record)
    assert len(source.encode()) < 1_500_000
    text = Page(source).text
    left_out = max(0, workers - WORKERS)
    assert (f"{left_out} more workers are not drawn." in text) == bool(left_out)
    for kind in IN_FLIGHT:
        assert kind in text


# ---- words ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.0123456, "0.0123"), (0.5, "0.50"), (1.9, "1.90"), (31.44, "31.4"),
     (312.6, "313"), (1234.0, "1234"), (-0.031, "-0.0310")],
)  # fmt: skip
def test_figures_have_three_digits(value: float, expected: str) -> None:
    assert figure(value) == expected
    assert rate(value) == f"{expected} GB/s"


@pytest.mark.parametrize(
    ("most", "expected"),
    [(2.03, [0, 0.5, 1.0, 1.5, 2.0]), (8, [0, 2, 4, 6, 8]), (0, [0]), (-1, [0]),
     (0.031, [0, 0.01, 0.02, 0.03]), (1e9, [0, 2e8, 4e8, 6e8, 8e8, 1e9])],
)  # fmt: skip
def test_ticks_are_round(most: float, expected: list[float]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_an_axis_names_its_unit_once() -> None:
    assert axis(2.03, "GB/s").count("GB/s") == 1
    assert "0.5<" in axis(2.03, "s")
    assert "0.02<" in axis(0.031, "s")
    assert "8 s<" in axis(8, "s")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("verify", True, "on"), ("sync_copy", False, "off"), ("op_nbytes", 4 << 20, "4 MiB"),
     ("memory_nbytes", 25_000_000_123, "25.00 GB"), ("threads", 2, "2"), ("x", None, "–"),
     ("x", "", "–"), ("x", [1, "a"], "1, a"), ("x", {"page_nbytes": 4096}, "page 4 KiB"),
     ("x", 0.123456, "0.12"), ("memory_nbytes", 24 << 30, "24 GiB"), ("x", [], "–"),
     ("nbytes", 0, "0 B")],
)  # fmt: skip
def test_values_are_told_as_people_read_them(key: str, value: object, expected: str) -> None:
    assert shown(key, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.124, "+12 %"), (-0.031, "−3 %"), (0.001, "±0 %"), (None, "–")]
)
def test_gains_have_a_sign(value: float | None, expected: str) -> None:
    assert gained(value) == expected
