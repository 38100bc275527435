"""What a shared pool can promise."""

from __future__ import annotations


def check_targets(called: str, slots: int, reserve: int, keep: int, limit: int) -> None:
    """Raise ValueError for what makes no sense, MemoryError for more than the file has addresses for."""
    if keep < reserve:
        raise ValueError(f"{called}: keep {keep} is below the reserve of {reserve}; keep at least the reserve")
    if limit < reserve <= slots:
        raise ValueError(
            f"{called}: a limit of {limit} cannot hold the reserve of {reserve}; raise the limit or lower the reserve"
        )
    if max(reserve, keep // 2) > slots:
        raise MemoryError(
            f"{called}: its file has addresses for {slots} elements, not for {max(reserve, keep // 2)}; make the pool anew "
            "with more slots"
        )
