"""All parts of the contract in one."""

from __future__ import annotations

from mempool.testing.contract.account import AccountContract
from mempool.testing.contract.alloc import AllocContract
from mempool.testing.contract.bad_input import InputContract
from mempool.testing.contract.base import Contract
from mempool.testing.contract.bulk import BulkContract
from mempool.testing.contract.closing import CloseContract
from mempool.testing.contract.guarantees import GuaranteeContract
from mempool.testing.contract.lease_many import LeaseManyContract
from mempool.testing.contract.leases import LeaseContract
from mempool.testing.contract.line import LineContract
from mempool.testing.contract.lingering import LingerContract
from mempool.testing.contract.losses import LossContract
from mempool.testing.contract.resize import ResizeContract
from mempool.testing.contract.resting import RestContract
from mempool.testing.contract.retry import RetryContract
from mempool.testing.contract.slow_source import SlowSourceContract


class PoolContract(
    AllocContract,
    AccountContract,
    LineContract,
    RetryContract,
    RestContract,
    SlowSourceContract,
    ResizeContract,
    GuaranteeContract,
    BulkContract,
    LeaseContract,
    LeaseManyContract,
    LingerContract,
    LossContract,
    CloseContract,
    InputContract,
):
    """All promises."""


__all__ = [
    "AccountContract",
    "AllocContract",
    "BulkContract",
    "CloseContract",
    "Contract",
    "GuaranteeContract",
    "InputContract",
    "LeaseContract",
    "LeaseManyContract",
    "LineContract",
    "LingerContract",
    "LossContract",
    "PoolContract",
    "ResizeContract",
    "RestContract",
    "RetryContract",
    "SlowSourceContract",
]
