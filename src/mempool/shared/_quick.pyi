from typing import Any

from mempool._core.fast_path import Quick

def check_out(tx: object, ticket: Any, keeps: object) -> bool: ...

class SharedQuick(Quick):
    def __init__(self, engine: object, tx: object, owner: object) -> None: ...
