"""The search for settings: those that should gain are tried, and what does gain is combined."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ckptfmt.bench.in_turn import Measurement, measure
from ckptfmt.bench.judgement import WORTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptfmt.bench.candidates import Candidate
    from ckptfmt.bench.in_turn import Listener
    from ckptfmt.bench.judgement import Gain
    from ckptfmt.bench.subject import Subject
    from ckptfmt.options import LoadOptions

#: Settings that are loaded with, the most promising ones.
TRIED = 4


@dataclass(slots=True)
class Best:
    """The best settings found.

    Attributes
    ----------
    environment : dict of str to str
        What to set; empty if nothing is better than the settings as they are.
    gb_s, gain : float
        Of loads with them, and by how much that is more than loads without, taken in turn.
    """

    environment: dict[str, str]
    gb_s: float
    gain: float


@dataclass(slots=True)
class Tuner:
    """Loads with other settings, in turn with loads as they are.

    Attributes
    ----------
    subject : Subject
        The load.
    repeat : int
        Rounds.
    prepare : callable
        Brings the page cache to its state.
    listener : callable or None
        Told of each load.
    """

    subject: Subject
    repeat: int
    prepare: Callable[[Measurement], None]
    listener: Listener | None = None

    def tune(self, tried: Sequence[Candidate], gains: Sequence[Gain]) -> Best:
        """Find the best settings, and write what single ones gain to `gains`.

        Leaving the checksums out is measured, never chosen.
        """
        by_name = {(c.setting, c.value): c for c in tried}
        hopeful = [gain for gain in gains if gain.predicted_gain >= WORTH][:TRIED]
        hopeful += [gain for gain in gains if gain.setting == "verify" and gain not in hopeful]
        ways = {
            f"{gain.setting}={gain.value}": by_name[gain.setting, gain.value] for gain in hopeful
        }
        ratios, rates = self._against_now(
            {name: (c.options, c.way.verify) for name, c in ways.items()}
        )
        good: dict[str, Gain] = {}
        for (name, ratio), gain in zip(ratios.items(), hopeful, strict=True):
            gain.measured_gb_s, gain.measured_gain = rates[name], ratio - 1
            if gain.setting == "verify" or ratio < 1 + WORTH:
                continue
            known = good.get(gain.setting)
            if known is None or (known.measured_gain or 0.0) < ratio - 1:
                good[gain.setting] = gain
        if not good:
            return Best({}, rates[""], 0.0)
        alone = max(good.values(), key=lambda gain: gain.measured_gain or 0.0)
        best = Best(_environment([alone]), alone.measured_gb_s or 0.0, alone.measured_gain or 0.0)
        if len(good) == 1:
            return best
        together = self.subject.options
        for gain in good.values():
            value = getattr(by_name[gain.setting, gain.value].options, gain.setting)
            together = replace(together, **{gain.setting: value})
        ratios, rates = self._against_now({"together": (together, self.subject.verify)})
        if ratios["together"] >= 1 + best.gain + WORTH:
            gained = ratios["together"] - 1
            return Best(_environment(list(good.values())), rates["together"], gained)
        return best

    def _against_now(
        self, ways: Mapping[str, tuple[LoadOptions, bool]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Rates over those of loads as they are, by round; and all rates, those too as ``""``."""
        subject = self.subject
        now = (subject.options, subject.verify)
        loads = {
            name: Measurement(
                name, f"loads with {name}" if name else "loads as they are", "load",
                partial(subject.load, options, verify=verify),
            )
            for name, (options, verify) in {"": now, **ways}.items()
        }  # fmt: skip
        measure(list(loads.values()), self.repeat, self.prepare, self.listener)
        before = loads[""].samples
        ratios = {
            name: statistics.median(
                a.gb_s / b.gb_s for a, b in zip(loads[name].samples, before, strict=True)
            )
            for name in ways
        }
        return ratios, {name: one.gb_s for name, one in loads.items()}


def _environment(gains: Sequence[Gain]) -> dict[str, str]:
    return {f"CKPTFMT_{gain.setting.upper()}": gain.value for gain in gains}
