# cython: language_level=3
"""The roll of the elements that are out, by identity: what makes a double free or a foreign free an error.

It holds addresses, not references: an element that its user loses is destroyed as Python would destroy it, and not kept
alive for ever. Striking an element off the roll is the gate of `free`: of two threads that free the same element, one
passes.

Compiled, it is a hash table of pointers with linear probing, at most half full. `make_room` runs when an element is
about to be made, so that writing an element down, which happens when it is handed out, cannot fail. Uncompiled, it is a
dict, each of whose methods is one indivisible step.
"""

from __future__ import annotations

from itertools import count, repeat
from operator import setitem
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.line import Hands


@cython.final
@cython.cclass
class Roll:
    """A set of addresses. Not protected by itself: call it inside the critical section."""

    places: cython.pp_void
    mask: cython.size_t
    capacity: cython.Py_ssize_t
    marks: dict[int, bool]

    def __cinit__(self) -> None:
        if cython.compiled:
            self.places = cython.NULL
            self.capacity = 0

    def __init__(self) -> None:
        self.marks = {}
        self.make_room(4)

    def __dealloc__(self) -> None:
        if cython.compiled:
            free(self.places)

    def make_room(self, elements: cython.Py_ssize_t) -> cython.void:
        """See to it that so many elements can be written down. Raises MemoryError, and then nothing has changed."""
        if cython.compiled:
            bits: cython.int = 4
            if elements <= self.capacity:
                return
            while (cython.cast(cython.Py_ssize_t, 1) << bits) < 2 * elements:
                bits += 1
            # Twice what is asked for: the next time is far away, and the work of moving is spread thin.
            bits += 1
            size: cython.size_t = cython.cast(cython.size_t, 1) << bits
            places: cython.pp_void = cython.cast(cython.pp_void, calloc(size, cython.sizeof(cython.p_void)))
            if places == cython.NULL:
                raise MemoryError
            old: cython.pp_void = self.places
            old_size: cython.size_t = self.mask + 1 if old != cython.NULL else 0
            self.places = places
            self.mask = size - 1
            self.capacity = cython.cast(cython.Py_ssize_t, size // 2)
            i: cython.size_t
            for i in range(old_size):
                if old[i] != cython.NULL:
                    self.enter(old[i])
            free(old)

    @cython.cfunc
    @cython.exceptval(check=False)
    def home_of(self, address: cython.p_void) -> cython.size_t:
        # Multiply and take the middle bits: objects of one kind lie at equal distances, which a plain mask would fold
        # onto each other.
        factor: cython.ulonglong = 0x61C88647
        return ((cython.cast(cython.size_t, address) * factor) >> 20) & self.mask

    @cython.cfunc
    @cython.exceptval(check=False)
    def enter(self, address: cython.p_void) -> cython.void:
        """Write down an address. One that is there already is that of an element that was lost: it stays once."""
        i: cython.size_t = self.home_of(address)
        while self.places[i] != cython.NULL:
            if self.places[i] == address:
                return
            i = (i + 1) & self.mask
        self.places[i] = address

    @cython.cfunc
    @cython.exceptval(check=False)
    def strike(self, address: cython.p_void) -> cython.bint:
        """Remove an address and close the gap, so that no search ends too early. False: it was not there."""
        gap: cython.size_t = self.home_of(address)
        while self.places[gap] != address:
            if self.places[gap] == cython.NULL:
                return False
            gap = (gap + 1) & self.mask
        i: cython.size_t = gap
        while True:
            i = (i + 1) & self.mask
            if self.places[i] == cython.NULL:
                break
            # The entry at i may move back into the gap unless its home lies behind the gap.
            if ((i - self.home_of(self.places[i])) & self.mask) >= ((i - gap) & self.mask):
                self.places[gap] = self.places[i]
                gap = i
        self.places[gap] = cython.NULL
        return True

    def sign_out(self, hands: Hands) -> None:
        """Write down what these hands hold: from now on it is the user's."""
        i: cython.Py_ssize_t
        if cython.compiled:
            for i in range(hands.first, hands.count):
                self.enter(cython.cast(cython.p_void, hands.elements[i]))
        elif hands.count - hands.first == 1:
            self.marks[id(hands.elements[hands.first])] = True
        else:
            self.marks.update(zip(map(id, hands.held()), repeat(True)))

    def sign_out_again(self, element: Any) -> cython.void:
        """Write down one that was struck off just now, so that there is a place for it: it lingers."""
        if cython.compiled:
            self.enter(cython.cast(cython.p_void, element))
        else:
            self.marks[id(element)] = True

    def sign_in(self, hands: Hands) -> bool:
        """Strike off what these hands hold, all or nothing; the proof lies in the hands in the same step."""
        i: cython.Py_ssize_t
        j: cython.Py_ssize_t
        if cython.compiled:
            for i in range(hands.first, hands.count):
                if not self.strike(cython.cast(cython.p_void, hands.elements[i])):
                    for j in range(hands.first, i):
                        self.enter(cython.cast(cython.p_void, hands.elements[j]))
                    return False
            hands.proven = True
            return True
        # One call into C, into places that are there: no exception can fly between the roll letting go and the hands having
        # hold.
        if hands.count - hands.first == 1:
            any(map(setattr, (hands,), ("proven",), map(self.marks.pop, (id(hands.elements[hands.first]),), (False,))))
            return hands.proven
        if len(set(map(id, hands.held()))) < len(hands.held()) or not all(map(self.lists, hands.held())):
            return False
        try:
            hands.struck.extend([False] * len(hands.held()))
            any(map(setitem, repeat(hands.struck), count(), map(self.marks.pop, map(id, hands.held()))))
        except KeyError:  # somebody freed one of them just now
            self.undo_sign_in(hands)
            return False
        return True

    def undo_sign_in(self, hands: Hands) -> None:
        """If only some of these were struck off, enter them again. (Compiled, all are struck off or none.)"""
        if hands.struck and not hands.are_owners():
            self.marks.update(zip(map(id, hands.held()[: sum(hands.struck)]), repeat(True)))
            hands.struck.clear()

    def discard(self, hands: Hands) -> None:
        """Strike off what these hands hold, as far as it is there."""
        i: cython.Py_ssize_t
        if cython.compiled:
            for i in range(hands.first, hands.count):
                self.strike(cython.cast(cython.p_void, hands.elements[i]))
        else:
            for element in hands.held():
                self.marks.pop(id(element), None)

    def forget(self, element: Any) -> None:
        """Strike off this address: what was out there is no more."""
        if cython.compiled:
            self.strike(cython.cast(cython.p_void, element))
        else:
            self.marks.pop(id(element), None)

    def strike_address(self, hands: Hands, address: cython.size_t) -> cython.bint:
        """Remove the address of an element that nobody has at hand. False: it was not there. The hands have the proof."""
        if cython.compiled:
            hands.proven = self.strike(cython.cast(cython.p_void, address))
            return hands.proven
        try:
            hands.struck.append(False)
            any(map(setitem, (hands.struck,), (0,), map(self.marks.pop, (address,))))  # one call into C, as in sign_in
        except KeyError:
            return False
        return True

    def count(self) -> cython.Py_ssize_t:
        """How many are out."""
        if cython.compiled:
            out: cython.Py_ssize_t = 0
            i: cython.size_t
            for i in range(self.mask + 1):
                out += self.places[i] != cython.NULL
            return out
        return len(self.marks)

    def clear(self) -> None:
        """Remove all."""
        if cython.compiled:
            i: cython.size_t
            for i in range(self.mask + 1):
                self.places[i] = cython.NULL
        else:
            self.marks.clear()

    def lists(self, element: Any) -> bool:
        """Whether this element is out."""
        if cython.compiled:
            i: cython.size_t = self.home_of(cython.cast(cython.p_void, element))
            while self.places[i] != cython.NULL:
                if self.places[i] == cython.cast(cython.p_void, element):
                    return True
                i = (i + 1) & self.mask
            return False
        return id(element) in self.marks
