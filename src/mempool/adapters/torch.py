"""Batches of a torch DataLoader in the buffers of a pool.

def make_pool() -> Pool[Buffer]:
    return Pool(Buffers("32 MiB"), reserve=3, limit=8, name="batches")

loader = DataLoader(dataset, batch_size=32, collate_fn=collate(make_pool))
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data._utils.collate import collate as collate_by
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from mempool import Buffer, Pool
from mempool.sizes import compared, parse_size


class collate:  # noqa: N801 - used as a function is
    """A `collate_fn` that stacks tensors and NumPy arrays into buffers of a pool: each sample is copied once.

    make_pool: makes the pool, of `Buffers`. It is called once in each process that collates, by the first batch there; a
        DataLoader whose workers are spawned pickles it, so let it be a function of a module.
    at_least: batches of fewer bytes (labels) are left to torch, because each takes a whole buffer. A size or a number.

    The buffer of a batch is returned when the last tensor that looks at it is gone. Everything but tensors and arrays, and
    tensors that are sparse, nested, not on the CPU, require a gradient or differ in type, are collated as by torch.

    Raises ValueError where a batch does not fit into a buffer, and what `Pool.alloc` raises.
    """

    def __init__(self, make_pool: Callable[[], Pool[Buffer]], *, at_least: int | str = "4 KiB") -> None:
        self._make_pool = make_pool
        self._at_least = parse_size(at_least)
        self._pools: dict[int, Pool[Buffer]] = {}
        self._by = {**default_collate_fn_map, torch.Tensor: self._stack}

    @property
    def pool(self) -> Pool[Buffer]:
        """The pool of this process; the first access makes it."""
        process = os.getpid()
        pool = self._pools.get(process)
        if pool is None:
            mine = self._make_pool()
            pool = self._pools.setdefault(process, mine)
            if pool is not mine:  # another thread was faster
                mine.close()
        return pool

    def __call__(self, samples: list[Any]) -> Any:
        """Collate these samples as `torch.utils.data.default_collate` does."""
        return collate_by(samples, collate_fn_map=self._by)

    def __getstate__(self) -> dict[str, Any]:
        return {"make_pool": self._make_pool, "at_least": self._at_least}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # in the process of a worker, which makes a pool of its own

    def _stack(self, batch: list[torch.Tensor], *, collate_fn_map: Any = None) -> torch.Tensor:
        first = batch[0]
        size = len(batch) * first.numel() * first.element_size()
        if size < self._at_least or not all(_is_plain(tensor, first) for tensor in batch):
            stacked: torch.Tensor = collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
            return stacked
        pool = self.pool
        buf = pool.alloc()
        out = None
        try:
            if size > len(buf):
                needs, has = compared(size, len(buf))
                raise ValueError(
                    f"pool {pool.name!r}: a batch of {len(batch)} tensors takes {needs}, and a buffer has {has}; make "
                    "larger buffers or smaller batches"
                )
            out = torch.frombuffer(buf[:], dtype=first.dtype, count=len(batch) * first.numel()).view(
                len(batch), *first.shape
            )
            torch.stack(batch, 0, out=out)
        except BaseException:
            del out
            pool.free(buf, linger=True)
            raise
        pool.free(buf, linger=True)  # from now on it is the tensor's, and returned when that is gone
        return out


def _is_plain(tensor: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether this tensor can be stacked into memory that is there, beside the first."""
    return (
        not tensor.is_nested
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.requires_grad
        and not tensor.is_quantized
        and tensor.dtype is first.dtype
        and tensor.shape == first.shape
    )
