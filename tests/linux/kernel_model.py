"""What Linux 6.19 does, call by call, in one thread: beside this, mempool.linux is tested.

Written from a description of the behaviour. An array of places, two numbers, and a log of every call of `alloc` and
`free`; where the kernel would sleep for five seconds, this one counts a nap and goes on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from mempool.testing import Element

IO = 0x40
DIRECT_RECLAIM = 0x400
KERNEL = 0xCC0
ALWAYS = 0x2000 | 0x10000 | 0x80000  # no warning, no long retrying, no emergency memory
#: So many places the kernel cannot have in one piece. (The real limit is lower; nothing in between is tested.)
TOO_MANY_PLACES = 10**12

Called = tuple[str, int, int | None]  # ("alloc", mask, the element's number or None) or ("free", 0, number)


def numbers(elements: Iterable[Element | None]) -> list[int | None]:
    """As the n-th of its source each was made."""
    return [element and element.number for element in elements]


@dataclass
class Memory:
    """A pair of `alloc` and `free` that fails when the plan says so and logs what it is asked."""

    plan: list[bool] = field(default_factory=list)  # what the next allocs do; afterwards there is memory
    made: int = 0
    log: list[Called] = field(default_factory=list)

    def alloc(self, gfp_mask: int, pool_data: object = None) -> Element | None:
        if not (self.plan.pop(0) if self.plan else True):
            self.log.append(("alloc", gfp_mask, None))
            return None
        self.made += 1
        self.log.append(("alloc", gfp_mask, self.made))
        return Element(self.made)

    def free(self, element: Element, pool_data: object = None) -> None:
        self.log.append(("free", 0, element.number))


class KernelPool:
    """The kernel's pool."""

    def __init__(self, min_nr: int, memory: Memory) -> None:
        self.memory = memory
        self.min_nr = min_nr
        self.elements: list[Element] = []
        self.failed = False
        self.naps = 0
        while self.curr_nr < max(1, min_nr):
            element = memory.alloc(KERNEL)
            if element is None:
                self.exit()
                self.failed = True
                return
            self.add(element)

    @property
    def curr_nr(self) -> int:
        return len(self.elements)

    def add(self, element: Element) -> None:
        assert self.curr_nr < max(1, self.min_nr), "more elements than places"
        self.elements.append(element)

    def remove(self) -> Element:
        return self.elements.pop()

    def exit(self) -> None:
        while self.curr_nr:
            self.memory.free(self.remove())

    def resize(self, new_min_nr: int) -> int:
        assert new_min_nr > 0
        if new_min_nr <= self.min_nr:
            while new_min_nr < self.curr_nr:
                self.memory.free(self.remove())
            self.min_nr = new_min_nr
            return 0
        if new_min_nr >= TOO_MANY_PLACES:
            return -errno.ENOMEM
        self.min_nr = new_min_nr
        while self.curr_nr < self.min_nr:
            element = self.memory.alloc(KERNEL)
            if element is None:
                break
            self.add(element)
        return 0

    def alloc(self, gfp_mask: int) -> Element | None:
        gfp_mask |= ALWAYS
        mask = gfp_mask & ~(DIRECT_RECLAIM | IO)
        while True:
            element = self.memory.alloc(mask)
            if element is not None:
                return element
            if self.curr_nr:
                return self.remove()
            self.naps += bool(mask & DIRECT_RECLAIM)
            if mask == gfp_mask and not mask & DIRECT_RECLAIM:
                return None
            mask = gfp_mask

    def alloc_preallocated(self) -> Element | None:
        return self.remove() if self.curr_nr else None

    def alloc_bulk(self, elems: list[Element | None]) -> int:
        mask = (KERNEL | ALWAYS) & ~(DIRECT_RECLAIM | IO)
        while True:
            for i, held in enumerate(elems):
                if held is None:
                    elems[i] = self.memory.alloc(mask)
                    if elems[i] is None:
                        break
            else:
                return 0
            empty = [i for i, held in enumerate(elems) if held is None]
            if self.curr_nr >= len(empty):
                for i in empty:
                    elems[i] = self.remove()
                return 0
            self.naps += bool(mask & DIRECT_RECLAIM)
            mask = KERNEL | ALWAYS

    def free_bulk(self, elems: list[Element]) -> int:
        freed = 0
        if self.curr_nr < self.min_nr:
            while self.curr_nr < self.min_nr and freed < len(elems):
                self.add(elems[freed])
                freed += 1
        elif self.min_nr == 0 and self.curr_nr == 0 and elems:
            self.add(elems[0])
            freed = 1
        return freed

    def free(self, element: Element | None) -> None:
        if element is not None and not self.free_bulk([element]):
            self.memory.free(element)

    def is_saturated(self) -> bool:
        return self.curr_nr >= self.min_nr
