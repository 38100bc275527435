"""Seen and steered from outside: figures by a page that needs no thread, commands by a socket that is opened on demand.

publish, unpublish      inside: show this process's pools; let them be resized
processes, find         outside: the processes of this user that show pools; one pool of one of them
Process, PoolView       what they return
WatchError              a directory that is unfit, a pool that is not there
NoAnswer, Refused       a process that takes commands and does not answer; or answers that it cannot be done
"""

from mempool.watch.client import NoAnswerError as NoAnswer
from mempool.watch.client import RefusedError as Refused
from mempool.watch.directory import WatchError
from mempool.watch.outside import PoolView, Process, find, processes
from mempool.watch.publishing import is_published, publish, unpublish

__all__ = [
    "NoAnswer",
    "PoolView",
    "Process",
    "Refused",
    "WatchError",
    "find",
    "is_published",
    "processes",
    "publish",
    "unpublish",
]
