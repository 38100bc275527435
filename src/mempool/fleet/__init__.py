"""Pools on many machines that are resized together: the part that knows no engine. `mempool.fleet.dask` is one on Dask.

Member        one pool of a node: takes revisions in any order, any number of times, and never goes back
Node          all pools of a node, by name; makes them
Controller    what each pool shall be; brings every node there, over a transport that loses and delays
Transport     what a controller needs of an engine
Targets, Order, Outcome, Standing, Report, Answer, Revisions    the values that travel

A fleet has no reserve of its own: each node promises what its own memory holds, and nothing moves between nodes. What is
promised here is that each node that can be reached comes to the latest revision, and that it is said which are not there.
"""

from mempool.fleet.controller import Controller, Transport
from mempool.fleet.member import Member
from mempool.fleet.node import Node
from mempool.fleet.values import Answer, Order, Outcome, Report, Revisions, Standing, Targets

__all__ = [
    "Answer",
    "Controller",
    "Member",
    "Node",
    "Order",
    "Outcome",
    "Report",
    "Revisions",
    "Standing",
    "Targets",
    "Transport",
]
