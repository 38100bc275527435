"""Pools as dependencies of FastAPI, which reads the signatures of what it is given, and calls it by what they say."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mempool import Buffer, Buffers, Pool, PoolTimeout

fastapi: Any = pytest.importorskip("fastapi", reason="fastapi is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client wants another name of httpx
    TestClient: Any = pytest.importorskip("fastapi.testclient", reason="its client needs httpx").TestClient


@pytest.fixture
def pool() -> Iterator[Pool[Buffer]]:
    """Of two buffers, both back in the end."""
    with Pool(Buffers("4 KiB"), 2, limit=2, timeout=20, name="frames") as pool:
        yield pool
        gc.collect()
        assert (pool.out, pool.spare) == (0, 2)


@pytest.mark.parametrize("way", ["alloc", "alloc_async"])
def test_an_alloc_is_a_dependency(pool: Pool[Buffer], way: str) -> None:
    """`Depends(pool.alloc)` needs no parameter of the request; the timeout is one that may be given."""
    app = fastapi.FastAPI()

    @app.get("/")
    def answer(buf: Any = fastapi.Depends(getattr(pool, way))) -> int:  # noqa: B008 - FastAPI's way
        try:
            return len(buf)
        finally:
            pool.free(buf)

    with TestClient(app) as client:
        for _ in range(5):
            response = client.get("/")
            assert (response.status_code, response.json()) == (200, 4096), response.text
        described = client.get("/openapi.json").json()["paths"]["/"]["get"]["parameters"]
    assert [(one["name"], one["required"]) for one in described] == [("timeout", False)]


def test_a_lease_is_a_dependency_that_ends_with_the_request(pool: Pool[Buffer]) -> None:
    """A generator that yields inside `async with pool.lease()`: no parameters, returned at the end, and after an error."""
    app = fastapi.FastAPI()
    out: list[int] = []

    async def frame() -> AsyncIterator[Buffer]:
        async with pool.lease() as buf:
            yield buf

    @app.get("/{number}")
    async def answer(number: int, buf: Any = fastapi.Depends(frame)) -> int:  # noqa: B008 - FastAPI's way
        out.append(pool.out)
        return len(buf) // number

    @app.exception_handler(PoolTimeout)
    async def full(_request: Any, _error: Any) -> Any:
        return fastapi.Response(status_code=503)

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/2").json() == 2048
        assert client.get("/0").status_code == 500
        assert pool.out == 0
        assert [one["name"] for one in client.get("/openapi.json").json()["paths"]["/{number}"]["get"]["parameters"]] == [
            "number"
        ]
        both = pool.alloc_many(2)
        pool._timeout = 0.0  # what this pool's callers wait at most
        assert client.get("/1").status_code == 503
        pool.free_many(both)
    assert out == [1, 1]
