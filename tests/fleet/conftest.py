"""Clusters of Dask for the tests: loopback only, ended with the test."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def running(workers: int, **options: Any) -> Iterator[Any]:
    """A LocalCluster and its client, as (cluster, client)."""
    distributed = pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0} | options
    if options.get("processes") or "protocol" in options:
        options["host"] = "127.0.0.1"
    with warnings.catch_warnings(), distributed.LocalCluster(n_workers=workers, **options) as cluster:
        warnings.simplefilter("ignore")  # of distributed, about itself
        with distributed.Client(cluster) as client:
            if workers:
                client.wait_for_workers(workers, timeout=60)
            yield cluster, client


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What distributed logs of workers that are killed on purpose is none of a test's output."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What distributed leaves to every process that a later test begins: the seed of its hashes, what its malloc keeps.

    And to this one: folders of workers that have ended among those of modules, a log of each of them.
    """
    path, names = sys.path[:], os.environ.keys() | {"PYTEST_CURRENT_TEST"}
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("scheduler", "worker")]
    handlers = [logger.handlers[:] for logger in loggers]
    yield
    sys.path[:] = path
    for name in os.environ.keys() - names:
        del os.environ[name]
    for logger, kept in zip(loggers, handlers, strict=True):
        logger.handlers[:] = kept


@pytest.fixture
def cluster() -> Callable[..., contextlib.AbstractContextManager[Any]]:
    return running
