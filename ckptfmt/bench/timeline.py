"""What the workers of a load did when, for pictures of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.trace import Trace

#: By the number of ``trace.KINDS``.
KINDS = ("read", "buffered read", "verify", "copy", "wait for disk", "wait for device")
#: Of the picture of throughput.
BINS = 100


def timeline(traces: Sequence[Trace]) -> dict[str, Any]:
    """Each worker's doings, in seconds from the first one's beginning."""
    began = min((int(t.events["begin"].min()) for t in traces if len(t.events)), default=0)
    ended = max((int(t.events["end"].max()) for t in traces if len(t.events)), default=began)
    workers = []
    for trace in traces:
        for number in np.unique(trace.events["worker"]).tolist():
            mine = np.sort(trace.events[trace.events["worker"] == number], order="begin")
            begin = ((mine["begin"] - began) / 1e9).round(6).tolist()
            end = ((mine["end"] - began) / 1e9).round(6).tolist()
            kinds, sizes = mine["kind"].tolist(), mine["nbytes"].tolist()
            events = [
                [b, e, KINDS[kind], nbytes]
                for b, e, kind, nbytes in zip(begin, end, kinds, sizes, strict=True)
            ]
            workers.append({"name": f"worker {number}", "device": trace.device, "events": events})
    return {"seconds": (ended - began) / 1e9, "workers": workers}


def throughput(traces: Sequence[Trace]) -> list[list[float]]:
    """Rate of what has been read, GB/s, over the time of the load, by equal steps."""
    reads = [t.events[t.events["kind"] <= 1] for t in traces]
    if not any(len(mine) for mine in reads):
        return []
    events = np.concatenate(reads)
    began = min(int(t.events["begin"].min()) for t in traces if len(t.events))
    seconds = (events["end"] - began) / 1e9
    # Fewer steps than reads: each has some that end in it.
    bins = int(min(BINS, max(1, len(events) // 4)))
    found, edges = np.histogram(seconds, bins, (0, float(seconds.max())), weights=events["nbytes"])
    step = float(edges[1] - edges[0]) or 1.0
    return [
        [round(float(at), 6), round(float(nbytes) / step / 1e9, 4)]
        for at, nbytes in zip(edges[1:], found, strict=True)
    ]
