"""MempoolPool and AsyncMempoolPool under real SQLite engines: fair, and otherwise like SQLAlchemy's own pools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mempool.testing import wait_until

sqlalchemy = pytest.importorskip("sqlalchemy")

from mempool.adapters.queue import PoolQueue  # noqa: E402 - after the skip
from mempool.adapters.sqlalchemy import AsyncMempoolPool, MempoolPool  # noqa: E402 - after the skip

SELECT = sqlalchemy.text("select 1")
MakeEngine = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeEngine]:
    """Makes engines of a SQLite file; each is disposed of at the end."""
    engines: list[Any] = []

    def make(**options: Any) -> Any:
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'data'}", poolclass=MempoolPool, **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


def test_where_there_is_a_bound_the_line_is_fair_and_elsewhere_there_is_none() -> None:
    """Without a bound nobody waits, and the queue is SQLAlchemy's own."""
    for make_pool in (MempoolPool, AsyncMempoolPool):
        assert isinstance(make_pool(object, pool_size=1)._pool, PoolQueue)
        assert not isinstance(make_pool(object, pool_size=0)._pool, PoolQueue)


def test_an_engine_uses_and_reuses_its_connections(make: MakeEngine) -> None:
    """A connection that is returned is the next one's."""
    engine = make(pool_size=2, max_overflow=0)
    seen = set()
    for _ in range(10):
        with engine.connect() as connection:
            assert connection.execute(SELECT).scalar() == 1
            seen.add(id(connection.connection.dbapi_connection))
    assert len(seen) == 1
    assert engine.pool.checkedin() == 1
    assert engine.pool.size() == 2


def test_waiting_threads_are_served_in_order(make: MakeEngine) -> None:
    """With one connection, each waiting thread gets it in the order of arrival."""
    engine = make(pool_size=1, max_overflow=0, pool_timeout=30)
    order: list[int] = []

    def work(number: int) -> None:
        with engine.connect():
            order.append(number)

    with ThreadPoolExecutor(8) as executor:
        with engine.connect():
            futures = []
            for number in range(8):
                futures.append(executor.submit(work, number))
                wait_until(lambda number=number: f" {number + 1} waiting" in repr(engine.pool._pool))
        for future in futures:
            future.result(30)
    assert order == list(range(8))


def test_a_wait_ends_in_time(make: MakeEngine) -> None:
    """SQLAlchemy's own TimeoutError, with its own words."""
    engine = make(pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError, match="QueuePool limit of size 1"):
        engine.connect()
    with engine.connect() as connection:
        assert connection.execute(SELECT).scalar() == 1


def test_overflow_is_made_and_closed_again(make: MakeEngine) -> None:
    """max_overflow: so many more at once, which are not kept."""
    engine = make(pool_size=1, max_overflow=2)
    connections = [engine.connect() for _ in range(3)]
    assert engine.pool.overflow() == 2
    for connection in connections:
        connection.close()
    assert engine.pool.checkedin() == 1
    assert engine.pool.overflow() == 0


def test_a_pool_without_limit_is_sqlalchemys_own(make: MakeEngine) -> None:
    """pool_size=0: nobody waits, so there is no line."""
    engine = make(pool_size=0)
    connections = [engine.connect() for _ in range(20)]
    for connection in connections:
        connection.close()
    assert engine.pool.checkedin() == 20


def test_a_dropped_connection_comes_back(make: MakeEngine) -> None:
    """A connection that is garbage is returned by SQLAlchemy's weak reference, in the midst of whatever runs."""
    engine = make(pool_size=1, max_overflow=0, pool_timeout=30)
    for _ in range(20):
        engine.raw_connection()
    with engine.connect() as connection:
        assert connection.execute(SELECT).scalar() == 1


def test_many_threads_lose_no_connection(make: MakeEngine) -> None:
    """Eight threads and two connections: all turns are had, and both connections are there at the end."""
    engine = make(pool_size=2, max_overflow=0, pool_timeout=60)
    with engine.connect(), engine.connect():
        pass  # both are made now; threads that never meet would need but one

    def work() -> int:
        turns = 0
        for _ in range(100):
            with engine.connect() as connection:
                turns += connection.execute(SELECT).scalar()
        return turns

    with ThreadPoolExecutor(8) as executor:
        assert [future.result(60) for future in [executor.submit(work) for _ in range(8)]] == [100] * 8
    assert engine.pool.checkedin() == 2


def test_waiting_tasks_are_served_in_order(tmp_path: Path) -> None:
    """The asyncio engine: one connection, eight tasks, first come first served; a time-out is SQLAlchemy's."""
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main() -> list[int]:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{tmp_path / 'data'}",
            poolclass=AsyncMempoolPool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=30,
        )
        order: list[int] = []

        async def work(number: int) -> None:
            async with engine.connect() as connection:
                assert (await connection.execute(SELECT)).scalar() == 1
                order.append(number)

        async with engine.connect():
            tasks = [asyncio.create_task(work(number)) for number in range(8)]
            while "8 waiting" not in repr(engine.pool._pool):  # noqa: ASYNC110 - nobody tells when a task waits
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await engine.dispose()

        hurried = create_async_engine(
            f"sqlite+aiosqlite:///{tmp_path / 'data'}",
            poolclass=AsyncMempoolPool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=0.05,
        )
        async with hurried.connect():
            with pytest.raises(sqlalchemy.exc.TimeoutError):
                async with hurried.connect():
                    pass
        await hurried.dispose()
        return order

    assert asyncio.run(main()) == list(range(8))
