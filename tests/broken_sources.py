"""Sources that break in a way of their own. What breaks call by call as it is told is `mempool.testing.ScriptedSource`."""

from mempool.testing import Element, ScriptedSource


class Stubborn(ScriptedSource[Element]):
    """Each third free raises, when all is done."""

    def free(self, element: Element, /) -> None:
        super().free(element)
        if self.disposed % 3 == 1:
            raise RuntimeError(f"the one after {self.disposed}")
