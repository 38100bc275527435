"""assert_books: every element is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mempool.buffer import identity_of
from mempool.pool import Pool
from mempool.testing.scripted import ScriptedSource


def assert_books(
    pool: Pool[Any], source: ScriptedSource[Any] | None = None, *, out: int | Iterable[Any] = 0, spare: int | None = None
) -> None:
    """Assert that every element is accounted for: the figures of the pool add up, and are those of its source.

        source = ScriptedSource()
        pool = Pool(source, 2)
        run(pool)                                       # what you test
        assert_books(pool, source)                      # it has given back all that it took

    source: what the pool asks; None: whatever the source counts is not looked at.
    out: how many elements are out; or which ones, and then each must exist, and none be named twice.
    spare: how many the pool keeps; None: any number that fits the others.

    An AssertionError names what is wrong, all figures, and, where `track="holders"` knows, who holds what. Takes nothing,
    changes nothing, and never waits. While a call of the source is under way in another thread, the source may be ahead of
    the pool.
    """
    held = None if isinstance(out, int) else list(out)
    expected_out = out if isinstance(out, int) else len(held or ())
    stats = pool.stats()
    wrong = _differences(
        ("out", stats.out, expected_out),
        ("made less disposed of", stats.made - stats.disposed, stats.spare + stats.out + stats.disposing),
        ("spare", stats.spare, stats.spare if spare is None else spare),
    )
    if held is not None and len(set(map(identity_of, held))) < len(held):
        wrong.append("out: an element is named twice, or was handed out twice")
    if source is not None:
        wrong += _differences(
            ("made, by the source", source.made, stats.made),
            ("disposed of, by the source", source.disposed, stats.disposed - stats.written_off),
        )
        existing, least = len(source.existing), stats.spare + stats.out + stats.written_off
        if not least <= existing <= least + stats.disposing:
            wrong.append(f"existing, by the source: {existing}, not {least}")
        if held is not None and not source.has(held):
            wrong.append("out: an element does not exist any more")
        wrong += source.wrong
    if wrong:
        holders = "".join(f"\n  {holder}" for holder in getattr(pool, "holders", tuple)())
        raise AssertionError("\n".join([f"{pool!r}: its books do not balance", *wrong, f"{stats}{holders}"]))


def _differences(*lines: tuple[str, int, int]) -> list[str]:
    """Which numbers are not what they must be."""
    return [f"{what}: {found}, not {expected}" for what, found, expected in lines if found != expected]
