"""A conversion killed at its n-th change to the disk, for every n: nothing is lost, it can go on.

A write that is killed is half done by then.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.helpers.conversions import Place
from tests.helpers.telling import folder_digests

#: More changes than any of these conversions makes.
MANY = 400


def killed(place: Place, nth: int, options: str, *, exchange: bool = True) -> bool:
    """Convert, to be killed at the n-th change; false if there were fewer, and all is well."""
    result = place.convert_failing("step", "kill", nth, options, exchange=exchange)
    assert result is None or result.returncode == -signal.SIGKILL
    return result is not None


def finished_partitions(place: Place) -> dict[str, bytes]:
    """Partitions that the unfinished conversion says are done: their bytes after the header."""
    code = """
import json, sys
from ckptfmt.target import Target
state = Target(sys.argv[1], force=True)._read_state()
print(json.dumps(state.done if state else []))
"""
    done = place.server.run(code, place.target).value
    names = [f"part-{number:05d}.ckptfmt" for number in done]
    return {name: (place.partial / name).read_bytes()[4096:] for name in names}


@pytest.mark.parametrize("workers", [1, 3])
def test_no_target_appears_and_resuming_completes_it(workers: int, place: Place) -> None:
    options = f'{{"workers": {workers}}}'
    taken_over = set()
    for nth in range(1, MANY):
        if not killed(place, nth, options):
            break
        if place.target.exists():
            # Only its name was not yet durable.
            assert place.holds(place.expected)
            place.finish("")
        else:
            done = finished_partitions(place)
            assert len(place.finish()) == len(done)
            taken_over.add(len(done))
        shutil.rmtree(place.target)
    assert nth > 50
    assert taken_over == {0, 1, 2, 3}


@pytest.mark.parametrize("exchange", [True, False])
def test_an_existing_target_is_there_whole_or_its_successor_is(
    exchange: bool, place: Place, other_checkpoint: dict[str, str]
) -> None:
    kept = place.target.with_name("other")
    seen = {"old": 0, "between": 0, "new": 0}
    for nth in range(1, MANY):
        if not killed(place, nth, '{"force": true, "workers": 1}', exchange=exchange):
            break
        if place.holds(other_checkpoint):
            seen["old"] += 1
        elif place.target.exists():
            assert place.holds(place.expected)
            seen["new"] += 1
        else:
            # Between two renames: the old one has another name, and is put back first.
            assert not exchange
            assert folder_digests(place.old) == other_checkpoint
            seen["between"] += 1
        refuse(place)
        place.finish('{"force": true, "resume": true}')
        shutil.rmtree(place.target)
        shutil.copytree(kept, place.target)
    assert seen["old"] > 50
    assert seen["new"] > 3
    assert seen["between"] == (0 if exchange else 1)


def refuse(place: Place) -> None:
    """Without ``--force`` a conversion refuses what is there, whatever the killed one left."""
    found = place.convert('{"resume": true}').value
    assert found["error"] == "TargetExistsError"
    assert found["filename"] == str(place.target)
    assert (place.target / "ckptfmt.json").exists()


def test_clearing_an_unfinished_conversion_away_may_be_cut_off_too(
    place: Place, tmp_path: Path
) -> None:
    """``--force`` over two finished partitions, killed at every step of its own."""
    fault = place.at("pwrite", "kill", 2, "part-00002")
    assert place.convert('{"workers": 1}', (fault,)).returncode == -signal.SIGKILL
    unfinished = shutil.copytree(place.partial, tmp_path / "unfinished")
    for nth in range(1, 16):
        assert killed(place, nth, '{"workers": 1, "force": true}')
        place.finish()
        shutil.rmtree(place.target)
        shutil.copytree(unfinished, place.partial)
    place.finish('{"resume": true, "workers": 1}')


def test_resuming_may_be_cut_off_too(place: Place) -> None:
    """Killed again and again, each time a little further on: what was finished stays finished."""
    most, seen = 0, set()
    for nth in range(1, MANY):
        if not killed(place, nth, '{"resume": true, "workers": 1}'):
            break
        if place.target.exists():
            assert place.holds(place.expected)
            shutil.rmtree(place.target)
        elif not (place.partial / "resume.json").exists():
            most = 0  # killed between the removal of the state and the rename
        else:
            done = len(finished_partitions(place))
            assert done >= most
            most = done
            seen.add(done)
    assert seen == {0, 1, 2, 3}
