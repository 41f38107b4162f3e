"""How much host memory a pool may take: of the machine, and of the group that holds the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptfmt import pool

MiB = 1 << 20
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def group(folder: Path, names: tuple[str, str], most: object, now: int, stat: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{now}\n")
    (folder / "memory.stat").write_text(stat)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {"v2": tmp_path / "v2", "v1": tmp_path / "v1"}
    found = ((str(folders["v2"]), *V2), (str(folders["v1"]), *V1))
    monkeypatch.setattr(pool, "GROUPS", found)
    return folders


def test_without_a_group_the_machine_decides(groups: dict[str, Path]) -> None:
    assert pool.available_nbytes() > 64 * MiB


@pytest.mark.parametrize("most", ["max", 1 << 62])
def test_a_group_without_a_limit_changes_nothing(groups: dict[str, Path], most: object) -> None:
    group(groups["v2"], V2, most, 5 * MiB)
    assert pool.available_nbytes() > 64 * MiB


def test_what_a_limit_leaves(groups: dict[str, Path]) -> None:
    group(groups["v2"], V2, 50 * MiB, 20 * MiB, "anon 100\ninactive_file 0\nactive_file 0\n")
    assert pool.available_nbytes() == 30 * MiB
    group(groups["v2"], V2, 50 * MiB, 60 * MiB)
    assert pool.available_nbytes() == 0


def test_the_page_cache_of_a_group_is_no_use_of_it(groups: dict[str, Path]) -> None:
    stat = f"anon 100\ninactive_file {15 * MiB}\nactive_file {4 * MiB}\n"
    group(groups["v2"], V2, 50 * MiB, 50 * MiB, stat)
    assert pool.available_nbytes() == 19 * MiB
    stat = f"cache 9\ntotal_inactive_file {6 * MiB}\ntotal_active_file {MiB}\ninactive_file 1\n"
    group(groups["v1"], V1, 40 * MiB, 38 * MiB, stat)
    assert pool.available_nbytes() == 9 * MiB
