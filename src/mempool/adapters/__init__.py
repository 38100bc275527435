"""Pools in other libraries: each module here is an adapter to one of them, and imports it when it is imported.

queue        PoolQueue: the interface of `queue.LifoQueue`, for urllib3, requests and redis-py
sqlalchemy   MempoolPool, AsyncMempoolPool: connection pools for SQLAlchemy's engines
torch        collate: batches of a DataLoader in pooled buffers

Waiting callers are served first come, first served, which the pools of these libraries do not promise.
"""
