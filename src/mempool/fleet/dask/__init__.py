"""A fleet of pools on Dask: `pip install distributed`.

Fleet, FleetPool, FleetStats    from a client: create, resize, refill, stats
mempool.fleet.dask.scheduler    what `dask scheduler --preload` takes, to keep the state in a file
mempool.fleet.dask.internals    all of distributed that is used beside its documented interface, and why

In a task, and on a worker outside of tasks, `mempool.get(name)` is that worker's pool.
"""

from mempool.fleet.dask.client import Fleet, FleetPool, FleetStats

__all__ = ["Fleet", "FleetPool", "FleetStats"]
