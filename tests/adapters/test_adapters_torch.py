"""collate: batches of real DataLoaders in pooled buffers, in this process and in workers that are forked or spawned."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from mempool import Buffer, Buffers, Pool, PoolTimeout
from mempool.testing import wait_until

torch: Any = pytest.importorskip("torch")
np: Any = pytest.importorskip("numpy")
from torch.utils.data import DataLoader, default_collate  # noqa: E402 - after the skip

from mempool.adapters.torch import collate  # noqa: E402 - after the skip

SHAPE = (3, 32, 32)
SAMPLES, BATCH = 62, 4

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


class Pictures:
    """A data set: a tensor, an array of the same numbers, a label and a name each."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> dict[str, Any]:
        picture = torch.full(SHAPE, float(number))
        return {"tensor": picture, "array": picture.numpy() + 0.5, "label": number, "name": f"picture {number}"}


def make_pool() -> Pool[Buffer]:
    """Of two batches of two tensors each, and the two that a loop still has."""
    return Pool(Buffers("64 KiB"), 2, keep=6, limit=6, timeout=20, name=f"batches of {os.getpid()}")


class Reporting(collate):
    """Tells with each batch what the pool that it lies in has done."""

    def __call__(self, samples: list[Any]) -> Any:
        return super().__call__(samples), self.pool.stats().as_dict()


@pytest.fixture
def collating() -> Iterator[Reporting]:
    """One whose pool in this process has everything back in the end."""
    collating = Reporting(make_pool)
    yield collating
    gc.collect()
    assert collating.pool.out == 0
    collating.pool.close()


def check_all(loader: Any, *, moved: bool = False) -> list[dict[str, Any]]:
    """Each batch of the loader is what torch would make of the same samples. Returns what each told.

    moved: torch has moved it into shared memory on its way here.
    """
    data, told = Pictures(), []
    for number, (batch, stats) in enumerate(loader):
        expected = default_collate([data[i] for i in range(number * BATCH, min(SAMPLES, (number + 1) * BATCH))])
        assert batch.keys() == expected.keys()
        for key in ("tensor", "array", "label"):
            assert torch.equal(batch[key], expected[key])
            assert batch[key].is_shared() == moved
        assert batch["name"] == expected["name"]
        told.append(stats)
    assert len(told) == -(-SAMPLES // BATCH)
    return told


def test_batches_lie_in_the_pools_buffers_in_this_process(collating: Reporting) -> None:
    """Tensors and arrays; each buffer is returned with the last tensor that looks at it, and nothing else is allocated."""
    told = check_all(DataLoader(Pictures(), batch_size=BATCH, collate_fn=collating))
    assert {stats["lingering"] for stats in told} == {2, 4}  # the last batch is still there while the next is made
    assert collating.pool.stats().made <= 6
    batch = collating([Pictures()[0]])[0]["tensor"]
    picture = batch[0, 0]
    del batch
    gc.collect()
    assert collating.pool.stats().lingering == 1
    del picture
    assert collating.pool.stats().lingering == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_are_collated_in_workers(collating: Reporting, method: str) -> None:
    """Each of two workers makes a pool of its own, and its buffers come back when a batch is on its way."""
    loader = DataLoader(
        Pictures(), batch_size=BATCH, num_workers=2, collate_fn=collating, multiprocessing_context=method, timeout=60
    )
    before = collating.pool  # a pool of this process is not the workers'
    told = check_all(loader, moved=True)
    names = {stats["name"] for stats in told}
    assert len(names) == 2
    assert before.name not in names
    assert all(1 <= stats["out"] <= 6 and stats["made"] <= 6 for stats in told)
    # Each batch took two buffers: more than were ever made, so their memory came back, in each worker, and is there again.
    last = {stats["name"]: stats for stats in told}
    for name, stats in last.items():
        taken = 2 * sum(each["name"] == name for each in told)
        assert taken > 6 >= stats["made"]
        assert stats["served_from_spare"] + stats["served_from_reserve"] + stats["served_from_line"] >= taken - stats["made"]
        assert stats["waits_timed_out"] == 0
    assert before.stats().made == 2


def test_small_batches_are_left_to_torch(collating: Reporting) -> None:
    """Labels would each take a whole buffer."""
    labels, stats = collating([torch.tensor(number) for number in range(BATCH)])
    assert labels.tolist() == [0, 1, 2, 3]
    assert stats["out"] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda number: torch.full(SHAPE, float(number), requires_grad=True),
        lambda number: torch.full(SHAPE, number, dtype=torch.int64 if number else torch.float64),
    ],
    ids=["requires a gradient", "differ in type"],
)
def test_what_cannot_be_stacked_into_memory_is_left_to_torch(collating: Reporting, make: Any) -> None:
    """It is collated as torch does it."""
    samples = [make(number) for number in range(BATCH)]
    batch, stats = collating(samples)
    assert torch.equal(batch, default_collate(samples))
    assert batch.requires_grad == samples[0].requires_grad
    assert stats["out"] == 0


def test_a_batch_that_does_not_fit_is_an_error(collating: Reporting) -> None:
    """It names both sizes; the buffer is back."""
    with pytest.raises(ValueError, match=r"120 KiB.*64 KiB"):
        collating([Pictures()[0]["tensor"]] * 10)
    gc.collect()
    assert collating.pool.out == 0


def test_batches_that_are_kept_use_up_the_pool_and_not_the_memory() -> None:
    """The bound of the pool is the bound of the loop: who keeps all batches waits for a buffer, and is told so."""
    collating = collate(lambda: Pool(Buffers("64 KiB"), 1, limit=2, timeout=0, name="batches"))
    kept = [collating([Pictures()[0]["tensor"]]) for _ in range(2)]
    with pytest.raises(PoolTimeout, match="2 of those out linger"):
        collating([Pictures()[0]["tensor"]])
    kept.clear()
    wait_until(lambda: collating.pool.out == 0)


def test_a_copy_makes_a_pool_of_its_own(collating: Reporting) -> None:
    """As in a worker that is spawned."""
    copy = pickle.loads(pickle.dumps(collating))
    assert copy.pool is not collating.pool
    copy.pool.close()
