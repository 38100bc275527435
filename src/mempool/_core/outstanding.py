# cython: language_level=3
"""The outstanding elements, by identity: what makes a double free or a foreign free an error.

It holds addresses, not references: an element that its user loses is destroyed as Python would destroy it, and not kept
alive for ever. Removing an element from the outstanding ones is the gate of `free`: of two threads that free the same
element, one passes.

Compiled, it is a hash table of pointers with linear probing, at most half full. `make_room` runs when an element is
about to be made, so that writing an element down, which happens when it is handed out, cannot fail. Uncompiled, it is a
dict, each of whose methods is one indivisible step.
"""

from __future__ import annotations

from itertools import count, repeat
from operator import setitem
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.transfer import Transfer


@cython.final
@cython.cclass
class Outstanding:
    """A set of addresses. Not protected by itself: call it inside the critical section."""

    table: cython.pp_void
    mask: cython.size_t
    capacity: cython.Py_ssize_t
    check_outs: cython.Py_ssize_t  # how often elements were checked out
    addresses: dict[int, bool]

    def __cinit__(self) -> None:
        if cython.compiled:
            self.table = cython.NULL
            self.capacity = 0

    def __init__(self) -> None:
        self.addresses = {}
        self.check_outs = 0
        self.make_room(4)

    def __dealloc__(self) -> None:
        if cython.compiled:
            free(self.table)

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
            table: cython.pp_void = cython.cast(cython.pp_void, calloc(size, cython.sizeof(cython.p_void)))
            if table == cython.NULL:
                raise MemoryError
            old: cython.pp_void = self.table
            old_size: cython.size_t = self.mask + 1 if old != cython.NULL else 0
            self.table = table
            self.mask = size - 1
            self.capacity = cython.cast(cython.Py_ssize_t, size // 2)
            i: cython.size_t
            for i in range(old_size):
                if old[i] != cython.NULL:
                    self.add_pointer(old[i])
            free(old)

    def first_slot(self, address: cython.p_void) -> cython.size_t:
        # Multiply and take the middle bits: objects of one kind lie at equal distances, which a plain mask would fold
        # onto each other.
        factor: cython.ulonglong = 0x61C88647
        return ((cython.cast(cython.size_t, address) * factor) >> 20) & self.mask

    def add_pointer(self, address: cython.p_void) -> cython.void:
        """Write down an address. One that is there already is that of an element that was lost: it stays once."""
        i: cython.size_t = self.first_slot(address)
        while self.table[i] != cython.NULL:
            if self.table[i] == address:
                return
            i = (i + 1) & self.mask
        self.table[i] = address

    def remove_pointer(self, address: cython.p_void) -> cython.bint:
        """Remove an address and close the gap, so that no search ends too early. False: it was not there."""
        gap: cython.size_t = self.first_slot(address)
        while self.table[gap] != address:
            if self.table[gap] == cython.NULL:
                return False
            gap = (gap + 1) & self.mask
        i: cython.size_t = gap
        while True:
            i = (i + 1) & self.mask
            if self.table[i] == cython.NULL:
                break
            # The entry at i may move back into the gap unless its first slot lies behind the gap.
            if ((i - self.first_slot(self.table[i])) & self.mask) >= ((i - gap) & self.mask):
                self.table[gap] = self.table[i]
                gap = i
        self.table[gap] = cython.NULL
        return True

    def check_out(self, transfer: Transfer) -> None:
        """Write down what this transfer holds: from now on it is the user's."""
        i: cython.Py_ssize_t
        self.check_outs += 1  # before it is there, see remove_address
        if cython.compiled:
            for i in range(transfer.first, transfer.count):
                self.add_pointer(cython.cast(cython.p_void, transfer.elements[i]))
        elif transfer.count - transfer.first == 1:
            self.addresses[id(transfer.elements[transfer.first])] = True
        else:
            self.addresses.update(zip(map(id, transfer.held()), repeat(True)))

    def check_out_again(self, element: Any) -> cython.void:
        """Write down one that was removed just now, so that there is a place for it: it lingers."""
        if cython.compiled:
            self.add_pointer(cython.cast(cython.p_void, element))
        else:
            self.addresses[id(element)] = True

    def check_in(self, transfer: Transfer) -> bool:
        """Remove what this transfer holds, all or nothing; the proof lies in the transfer in the same step."""
        i: cython.Py_ssize_t
        j: cython.Py_ssize_t
        if cython.compiled:
            for i in range(transfer.first, transfer.count):
                if not self.remove_pointer(cython.cast(cython.p_void, transfer.elements[i])):
                    for j in range(transfer.first, i):
                        self.add_pointer(cython.cast(cython.p_void, transfer.elements[j]))
                    return False
            transfer.proven = True
            return True
        # One call into C, into places that are there: no exception can be raised between the table of outstanding elements
        # letting go and the transfer having hold.
        if transfer.count - transfer.first == 1:
            any(
                map(
                    setattr,
                    (transfer,),
                    ("proven",),
                    map(self.addresses.pop, (id(transfer.elements[transfer.first]),), (False,)),
                )
            )
            return transfer.proven
        if len(set(map(id, transfer.held()))) < len(transfer.held()) or not all(map(self.contains, transfer.held())):
            return False
        try:
            transfer.removed.extend([False] * len(transfer.held()))
            any(map(setitem, repeat(transfer.removed), count(), map(self.addresses.pop, map(id, transfer.held()))))
        except KeyError:  # somebody freed one of them just now
            self.undo_partial_check_in(transfer)
            return False
        return True

    def undo_partial_check_in(self, transfer: Transfer) -> None:
        """If only some of these were removed, enter them again. (Compiled, all are removed or none.)"""
        if transfer.removed and not transfer.are_owners():
            self.addresses.update(zip(map(id, transfer.held()[: sum(transfer.removed)]), repeat(True)))
            transfer.removed.clear()

    def discard(self, transfer: Transfer) -> None:
        """Remove what this transfer holds, as far as it is there."""
        i: cython.Py_ssize_t
        if cython.compiled:
            for i in range(transfer.first, transfer.count):
                self.remove_pointer(cython.cast(cython.p_void, transfer.elements[i]))
        else:
            for element in transfer.held():
                self.addresses.pop(id(element), None)

    def forget(self, element: Any) -> None:
        """Remove this address: what was out there is no more."""
        if cython.compiled:
            self.remove_pointer(cython.cast(cython.p_void, element))
        else:
            self.addresses.pop(id(element), None)

    def remove_address(self, transfer: Transfer, address: cython.size_t, check_outs: cython.Py_ssize_t) -> cython.bint:
        """Remove the address of an element that nobody has at hand. False: it was not there. The transfer is the proof.

        check_outs: how many there had been when it was that element's. False if there are more now: it may be another's.
        """
        if self.check_outs != check_outs:
            return False
        if cython.compiled:
            transfer.proven = self.remove_pointer(cython.cast(cython.p_void, address))
            return transfer.proven
        try:
            transfer.removed[:] = (False,)  # one place, though this be the second try
            any(
                map(setitem, (transfer.removed,), (0,), map(self.addresses.pop, (address,)))
            )  # one call into C, as in check_in
        except KeyError:
            return False
        if self.check_outs != check_outs:
            self.addresses[address] = True
            transfer.removed.clear()
            return False
        return True

    def count(self) -> cython.Py_ssize_t:
        """How many are out."""
        if cython.compiled:
            out: cython.Py_ssize_t = 0
            i: cython.size_t
            for i in range(self.mask + 1):
                out += self.table[i] != cython.NULL
            return out
        return len(self.addresses)

    def clear(self) -> None:
        """Remove all."""
        if cython.compiled:
            i: cython.size_t
            for i in range(self.mask + 1):
                self.table[i] = cython.NULL
        else:
            self.addresses.clear()

    def contains(self, element: Any) -> bool:
        """Whether this element is out."""
        if cython.compiled:
            i: cython.size_t = self.first_slot(cython.cast(cython.p_void, element))
            while self.table[i] != cython.NULL:
                if self.table[i] == cython.cast(cython.p_void, element):
                    return True
                i = (i + 1) & self.mask
            return False
        return id(element) in self.addresses
