"""The report of a bench as someone sees it: in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.bench.page import render
from tests.helpers import bench_records, chromium
from tests.helpers.chromium import Browser

pytestmark = pytest.mark.skipif(
    bool(chromium.missing()), reason=chromium.missing() or "there is a browser"
)

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
RECORDS = {"cold": bench_records.cold, "device": bench_records.device, "empty": dict,
           "awkward": bench_records.awkward}  # fmt: skip

#: For each text that is shown: itself, its colour and its ground's, as [red, green, blue, alpha],
#: and where it begins and ends.
TEXTS = """(() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return [...n, 1].slice(0, 4); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("svg")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter(b => b.width > 1);
    if (!boxes.length || parent.closest("thead")?.clientWidth <= 1) continue;
    let ground = parent;
    while (ground && parse(getComputedStyle(ground).backgroundColor)[3] === 0)
      ground = ground.parentElement;
    found.push([node.data.trim(), parse(getComputedStyle(parent).color),
                parse(getComputedStyle(ground).backgroundColor),
                Math.min(...boxes.map(b => b.left)), Math.max(...boxes.map(b => b.right))]);
  }
  return found;
})()"""
#: Elements that hide some of what is in them.
CLIPPED = """[...document.querySelectorAll("body *:not(svg *)")].filter(e =>
  e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1 &&
  getComputedStyle(e).overflowX !== "visible").map(e => e.className || e.tagName)"""
#: Pairs of labels of one axis that touch.
TOUCHING = """[...document.querySelectorAll(".axis")].flatMap(axis => {
  const boxes = [...axis.children].map(e => e.getBoundingClientRect()).filter(b => b.width);
  return boxes.slice(1).filter((b, i) => b.left < boxes[i].right + 2).map(b => b.left); })"""


@cache
def record(name: str) -> Any:
    return RECORDS[name]()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.opened(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def luminance(colour: list[float]) -> float:
    """Of a colour, as WCAG 2 has it."""
    parts = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def pixels(png: bytes) -> tuple[int, int, set[bytes]]:
    """Width, height and the colours of a PNG that is not interlaced, some columns left out."""
    width, height, _, kind = struct.unpack(">IIBB", png[16:26])
    channels = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        (nbytes,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + nbytes]
        at += 12 + nbytes
    raw, stride = zlib.decompress(data), width * channels
    colours, above = set(), bytearray(stride)
    for y in range(height):
        way, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 :][:stride])
        for i in range(stride):
            left = row[i - channels] if i >= channels else 0
            corner = above[i - channels] if i >= channels else 0
            if way == 4:
                guess = left + above[i] - corner
                near = min((left, above[i], corner), key=lambda v: abs(guess - v))
            else:
                near = (0, left, above[i], (left + above[i]) // 2)[way]
            row[i] = (row[i] + near) & 255
        colours.update(bytes(row[i : i + 3]) for i in range(0, stride, channels * 8))
        above = row
    return width, height, colours


def shown(browser: Browser, folder: Path, given: Any, width: int, scheme: str) -> Path:
    path = folder / "report.html"
    path.write_text(render(given), encoding="utf-8")
    browser.events.clear()
    browser.show(path, width=width, scheme=scheme)
    return path


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_can_be_read(
    browser: Browser, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    """Nothing is cut off, nothing overlaps, and all of it stands out from its ground."""
    path = shown(browser, tmp_path, record(name), width, scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = browser.evaluate(TEXTS)
    assert texts
    for text, colour, ground, left, right in texts:
        assert contrast(colour, ground) >= 4.5, (text, colour, ground)
        assert left >= 0, text
        assert right <= width, text
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(CLIPPED) == []
    assert browser.evaluate(TOUCHING) == []
    # It asked for nothing but itself, and nothing in it was refused or failed.
    asked = [event["request"]["url"] for event in browser.told("Network.requestWillBeSent")]
    assert asked == [path.as_uri()]
    assert browser.told("Log.entryAdded", "Runtime.consoleAPICalled") == []
    assert browser.told("Runtime.exceptionThrown") == []


def test_light_and_dark_differ(browser: Browser, tmp_path: Path) -> None:
    grounds = {}
    for scheme in SCHEMES:
        shown(browser, tmp_path, bench_records.cold(), 1280, scheme)
        grounds[scheme] = luminance([
            float(part)
            for part in browser.evaluate("getComputedStyle(document.body).backgroundColor")
            .removeprefix("rgb(").removesuffix(")").split(",")
        ])  # fmt: skip
    assert grounds["light"] > 0.8
    assert grounds["dark"] < 0.05


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_screenshot_has_the_colours_of_what_the_workers_did(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    shown(browser, tmp_path, bench_records.cold(), 390, scheme)
    assert pixels(browser.screenshot("header"))[0] == 358  # of 390, without the margins
    width, height, colours = pixels(browser.screenshot(".tracks"))
    assert (width, height > 200) == (358, True)
    for kind in ("verify", "disk", "read"):
        colour = browser.evaluate(
            f"getComputedStyle(document.querySelector('.legend .{kind}')).fill"
        )
        wanted = bytes(int(part) for part in colour[4:-1].split(","))
        assert wanted in colours, kind


def test_a_hostile_record_does_nothing(browser: Browser, tmp_path: Path) -> None:
    hostile = bench_records.cold()
    for value in ("<script>document.title = 'taken'</script>", "<img src=x onerror=alert(1)>"):
        hostile["path"] = hostile["limit"]["what"] = value
        hostile["machine"][value] = value
        path = shown(browser, tmp_path, hostile, 1280, "light")
        assert value in browser.evaluate("document.querySelector('.facts').textContent")
        assert browser.evaluate("document.title").startswith("ckptfmt bench: ")
        assert browser.evaluate("document.querySelectorAll('script, img').length") == 0
        asked = [event["request"]["url"] for event in browser.told("Network.requestWillBeSent")]
        assert asked == [path.as_uri()]
