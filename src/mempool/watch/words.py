"""What the figures of a pool say, in words: its state in a table, a sentence for a person. From a page, asking nobody.

Imports nothing of the package but what `mempool top` loads without the pools.
"""

from __future__ import annotations

from collections.abc import Sequence

from mempool.watch.layout import BUCKETS, Figures

#: How bad a state is: the worst comes first.
UNREADABLE, UNFUNDED, LINE, RESERVE, CLOSED, WELL = range(6)


def state_of(figures: Figures | None, why: str = "") -> tuple[int, str]:
    """How bad it is, and the state in a few words."""
    f = figures
    if f is None:
        return UNREADABLE, why
    if f.spare >= f.reserve and not f.waiting and not f.closed and f.stable:
        return WELL, "ok"  # most of them: `top` asks for each in each frame
    said = []
    badness = WELL
    if f.unfunded:
        badness = UNFUNDED
        said.append(f"UNFUNDED {f.unfunded}")
    if f.waiting:
        badness = min(badness, LINE)
        said.append(f"LINE {f.waiting}")
    if f.waiting and f.limit_reached:
        said.append(f"limit {f.limit} reached")
    if f.spare < f.reserve and badness == WELL and not f.closed:
        badness = RESERVE
        said.append(f"{f.reserve - f.spare} of the reserve in use" if f.spare else "the reserve is used up")
    if f.filling:
        said.append(f"making {f.filling}")
    if f.closed:
        badness = min(badness, CLOSED)
        said.append(f"closed, {f.out} still out" if f.out else "closed")
    if not f.stable:
        said.append("stopped in the middle of a step")
    return badness, ", ".join(said) or "ok"


def sentence(f: Figures) -> str:
    """What can be told of a pool by its figures alone."""
    said = [f"{f.reserve} promised, {f.spare} spare, {f.out} out, {f.waiting} in line"]
    if f.unfunded:
        said.append(f"{f.unfunded} of the promise unfunded: not even every return would fill them")
    if f.filling:
        said.append(f"{f.filling} being made by a resize or a refill")
    if f.closed:
        said.append("it is closed")
    elif f.limit_reached:
        said.append(f"the limit of {f.limit} is reached")
    if f.lingering:
        said.append(f"{f.lingering} of those out freed already, and kept by views")
    if f.source_failures:
        times = "once" if f.source_failures == 1 else f"{f.source_failures} times"
        last = f", last with {f.said}" if f.said else ""
        said.append(f"the source has failed {times}{last}")
    return "; ".join(said)


def seconds(value: float | None) -> str:
    """A time in at most five letters."""
    if value is None:
        return "-"
    if value == float("inf"):
        return f">{BUCKETS[-1]:.0f}s"
    if value < 1e-3:
        return f"{value * 1e6:.0f}µs"
    if value < 1:
        return f"{value * 1e3:.0f}ms"
    return f"{value:.0f}s"


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """The upper bound of the bucket in which so many of the waits have ended; None: nobody has waited; inf: above all."""
    total = sum(histogram)
    if total <= 0:
        return None
    seen = 0
    for bucket, waits in enumerate(histogram):
        seen += waits
        if seen >= share * total:
            return BUCKETS[bucket] if bucket < len(BUCKETS) else float("inf")
    return float("inf")
