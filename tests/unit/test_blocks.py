"""Blocks of files: in order, each once, in a window, with sums; failures reach who waits."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable

import pytest

from ckptfmt.errors import HubError
from ckptfmt.sources import blocks
from ckptfmt.sources.blocks import Blocks
from ckptfmt.sources.repository import RepositoryFile, checked_files, is_plain

BLOCK = 100


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", BLOCK)


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Hub:
    """Files in memory, and what was asked of them."""

    def __init__(self, *sizes: int, digests: bool = True) -> None:
        self.data = [content(size, i) for i, size in enumerate(sizes)]
        self.files = [
            RepositoryFile(f"f{i}", len(d), hashlib.sha256(d).hexdigest() if digests else "",
                           "sha256" if digests else "")
            for i, d in enumerate(self.data)
        ]  # fmt: skip
        self.asked: list[tuple[int, int]] = []
        self.confirmed: list[int] = []
        self.before: Callable[[int, int], None] = lambda file, start: None

    def fetch(self, file: int, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        self.before(file, start)
        self.asked.append((file, start))
        return self.data[file][start : start + nbytes]

    def blocks(self, ranges: list[tuple[int, int, int]]) -> Blocks:
        return Blocks(self.files, ranges, self.fetch, self.confirmed.append, "hub")


def read(made: Blocks, file: int, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    made.read_into(file, offset, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("window", [1, 2, 12])
@pytest.mark.parametrize("readers", [1, 4])
def test_readers_that_go_forward_get_every_byte(
    window: int, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "WINDOW", window)
    hub = Hub(1234, 7, 100, 5001)
    ranges, chance = [], random.Random(3)
    for file, data in enumerate(hub.data):
        at = 0
        while at < len(data):
            nbytes = min(chance.randint(1, 333), len(data) - at)
            ranges.append((file, at, nbytes))
            at += nbytes
    made, queue, lock = hub.blocks(ranges), iter(ranges), threading.Lock()
    wrong: list[tuple[int, int, int]] = []

    def work() -> None:
        while True:
            with lock:
                mine = next(queue, None)
            if mine is None:
                return
            file, offset, nbytes = mine
            if read(made, file, offset, nbytes) != hub.data[file][offset : offset + nbytes]:
                wrong.append(mine)

    threads = [threading.Thread(target=work) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    made.finish()
    assert wrong == []
    assert hub.confirmed == [0, 1, 2, 3]
    assert len(hub.asked) == len(set(hub.asked)) == 13 + 1 + 1 + 51


def test_no_more_than_the_window_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW", 3)
    hub = Hub(1000)
    three, four = threading.Semaphore(0), threading.Event()

    def before(file: int, start: int) -> None:
        three.release()
        if start >= 3 * BLOCK:
            four.set()

    hub.before = before
    made = hub.blocks([(0, 0, 1000)])
    for _ in range(3):
        assert three.acquire(timeout=10)
    assert not four.wait(0.05)
    read(made, 0, 0, BLOCK)
    assert four.wait(10)
    made.stop()


def test_parts_that_nobody_reads_are_fetched_for_the_sum_alone() -> None:
    hub = Hub(1000, 1000)
    made = hub.blocks([(1, 950, 50)])
    assert read(made, 1, 950, 50) == hub.data[1][950:]
    made.finish()
    assert {file for file, _ in hub.asked} == {1}
    assert len(hub.asked) == 10
    assert hub.confirmed == [1]


def test_without_a_published_sum_only_what_is_read_is_fetched() -> None:
    hub = Hub(1000, digests=False)
    made = hub.blocks([(0, 250, 100)])
    assert read(made, 0, 250, 100) == hub.data[0][250:350]
    made.finish()
    assert sorted(hub.asked) == [(0, 200), (0, 300)]


def test_a_wrong_sum_reaches_the_reader_before_the_last_bytes_do() -> None:
    hub = Hub(350)
    hub.data[0] = hub.data[0][:10] + b"?" + hub.data[0][11:]
    made = hub.blocks([(0, 0, 350)])
    with pytest.raises(HubError, match="hub: f0: its SHA-256 is "):
        read(made, 0, 300, 50)
    with pytest.raises(HubError, match="f0"):
        made.finish()
    assert hub.confirmed == []
    made.stop()


def test_the_sum_of_git_is_checked_as_well() -> None:
    hub = Hub(350)
    digest = hashlib.sha1(b"blob 350\0" + hub.data[0]).hexdigest()
    hub.files[0] = RepositoryFile("f0", 350, digest, "git")
    made = hub.blocks([(0, 0, 350)])
    assert read(made, 0, 0, 350) == hub.data[0]
    made.finish()
    assert hub.confirmed == [0]


def test_a_failed_fetch_reaches_everybody() -> None:
    hub = Hub(2000)

    def before(file: int, start: int) -> None:
        if start == 500:
            raise HubError("no")

    hub.before = before
    made = hub.blocks([(0, 0, 2000)])
    for offset in (500, 1500):
        with pytest.raises(HubError, match="no"):
            read(made, 0, offset, 100)
    with pytest.raises(HubError, match="no"):
        made.finish()
    made.stop()


def test_stopping_wakes_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW", 1)
    made = Hub(1000).blocks([(0, 0, 1000)])
    found: list[str] = []

    def wait() -> None:
        with pytest.raises(HubError) as caught:
            read(made, 0, 500, 10)  # which never comes, unless somebody reads what is before it
        found.append(str(caught.value))

    thread = threading.Thread(target=wait)
    thread.start()
    made.stop()
    thread.join(10)
    assert found == ["hub: the conversion was stopped"]


@pytest.mark.parametrize(("name", "expected"), [
    ("a", True), ("a/b.c", True), ("..a/b..", True), ("ü/x", True),
    ("", False), ("/a", False), ("a/", False), ("..", False), ("a/../b", False), ("./a", False),
    ("a//b", False), ("a\\b", False), ("a\nb", False), ("a" * 256, False), ("a/" * 32 + "b", False),
])  # fmt: skip
def test_which_names_stay_inside(name: str, expected: bool) -> None:
    assert is_plain(name) == expected


def test_a_listing_is_given_in_order() -> None:
    files = [RepositoryFile(name, 1) for name in ("b", "a/c", "a")][:2]
    assert [f.name for f in checked_files("hub", files)] == ["a/c", "b"]
