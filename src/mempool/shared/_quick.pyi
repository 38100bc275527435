from mempool._core.fast_path import Quick

class SharedQuick(Quick):
    def __init__(self, engine: object, tx: object, owner: object) -> None: ...
