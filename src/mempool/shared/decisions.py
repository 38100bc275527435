"""The decisions of a shared pool. Each is plain code on a few words, in force as a whole or not at all.

Compiled into _engine.pyx; simulations run it as it is. A decision never waits, never loops without a bound, and calls
nothing but its transaction. It returns an outcome, and whatever else it has to say in `slot`, `place`, `count` or `value`.
What it reads may be torn, or forged: an index is compared before it is used, and what cannot be makes the transaction
`broken`, which is never in force. So a decision need not stop when it meets nonsense.

Each begins by looking at its client's own word. A client that was taken for dead finds that out here, and changes nothing.
Where nobody has committed since this client's last look, that need not be looked at again, nor the targets (`know`).
"""

from typing import TYPE_CHECKING

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, all are in one file
    from mempool.shared.transaction import Transaction
    from mempool.shared.words import (
        BARE,
        BARE_LIST,
        EMPTY,
        FILLING,
        FILLING_AT,
        FILLING_MAX,
        FIRST_SLOT,
        LEASED,
        LINE,
        LIVE,
        NO_PLACE,
        NO_SLOT,
        OFFERS,
        POPULATING,
        PUNCHING,
        SERVED,
        SHUT,
        SPARE,
        TARGETS,
        UNSETTLED,
        WAITING,
        before_of,
        behind_of,
        client_of,
        filling_of,
        first_bare,
        first_empty,
        first_granted,
        first_spare,
        granted_of,
        head_of,
        is_closed,
        keep_of,
        limit_of,
        made_of,
        make_bare_list,
        make_client,
        make_gate,
        make_line,
        make_links,
        make_place,
        make_slot,
        may_be_made,
        next_slot,
        reserve_of,
        spares,
        state_of,
        tail_of,
        waiting,
        wanted_of,
    )

    # Outcomes.
    GOT = 1  # it is the caller's
    NOTHING = 2  # there is nothing to be had, or to be done
    TO_POPULATE = 3  # the slot is the caller's and needs memory
    TO_PUNCH = 4  # the slot is the caller's and its memory must go
    KEPT = 5  # it is a spare again
    GRANTED = 6  # it went to the first in line
    NOT_YOURS = 7  # no such lease, no such ticket
    FULL = 8  # no place in the line
    CLOSED = 9
    TOO_MANY = 10  # more than the limit allows
    GONE = 11  # this client was taken for dead
    GRANTS_MAX = 6  # how many slots one decision hands to the line
    # Where what a caller got was taken from.
    FROM_SPARES = 0
    FROM_RESERVE = 1
    FROM_SOURCE = 2
    # What memory is fetched for.
    FOR_LINE = 0
    FOR_RESERVE = 1
    BEYOND_OUT = 2
    ALONE = 3


# -- words, found by number. A number that is too big is answered with a word that is there.


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def slot_word(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    if slot >= tx.slots:
        tx.broken = True
        return FIRST_SLOT
    return FIRST_SLOT + slot


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def place_word(tx: Transaction, place: cython.ulonglong) -> cython.ulonglong:
    """The word behind it has the links."""
    if place >= tx.places:
        tx.broken = True
        place = 0
    return FIRST_SLOT + tx.slots + 2 * place


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def client_word(tx: Transaction, client: cython.ulonglong) -> cython.ulonglong:
    if client >= tx.clients:
        tx.broken = True
        client = 0
    return FIRST_SLOT + tx.slots + 2 * tx.places + client


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def is_live(tx: Transaction) -> cython.bint:
    if tx.me >= tx.clients:
        return False  # it is no client (any more)
    value: cython.ulonglong = tx.read(client_word(tx, tx.me))
    return value == make_client(LIVE, tx.epoch) or value == make_client(UNSETTLED, tx.epoch)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def know(tx: Transaction) -> cython.bint:
    """Whether this client is live, as `is_live`. If so, `tx.known_targets` and `tx.known_bare_list` are those words."""
    if tx.is_known:
        return True
    if not is_live(tx):
        return False
    tx.known_targets = tx.read(TARGETS)
    tx.known_bare_list = tx.read(BARE_LIST)
    tx.is_known = True
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def check_chain(tx: Transaction, following: cython.ulonglong, is_last: cython.bint) -> cython.void:
    """The next slot of a chain is one, or the chain ends here, as its count says."""
    if is_last != (following == NO_SLOT) or (not is_last and following >= tx.slots):
        tx.broken = True


# -- slots


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def pop(tx: Transaction, state: cython.ulonglong, client: cython.ulonglong, following: cython.ulonglong) -> cython.void:
    """The first spare goes into this state, and is `tx.slot`."""
    gate: cython.ulonglong = tx.gate
    slot: cython.ulonglong = first_spare(gate)
    word: cython.ulonglong = slot_word(tx, slot)
    value: cython.ulonglong = tx.read(word)
    if state_of(value) != SPARE or spares(gate) == 0:
        tx.broken = True
        return
    check_chain(tx, next_slot(value), spares(gate) == 1)
    tx.write(word, make_slot(state, client, following))
    tx.gate = make_gate(next_slot(value), spares(gate) - 1, waiting(gate), is_closed(gate))
    tx.slot = slot


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def push(tx: Transaction, slot: cython.ulonglong) -> cython.void:
    gate: cython.ulonglong = tx.gate
    tx.write(slot_word(tx, slot), make_slot(SPARE, 0, first_spare(gate)))
    tx.gate = make_gate(slot, spares(gate) + 1, waiting(gate), is_closed(gate))


@cython.cfunc
@cython.exceptval(check=False)
def claim_bare(tx: Transaction, targets: cython.ulonglong, state: cython.ulonglong) -> cython.bint:
    """A bare slot becomes the caller's, to be populated (in this state), if the limit allows one more."""
    bare_list: cython.ulonglong = tx.read(BARE_LIST)
    if not may_be_made(targets, bare_list):
        return False
    slot: cython.ulonglong = first_bare(bare_list)
    word: cython.ulonglong = slot_word(tx, slot)
    value: cython.ulonglong = tx.read(word)
    if state_of(value) != BARE or made_of(bare_list) >= tx.slots:
        tx.broken = True
        return False
    check_chain(tx, next_slot(value), made_of(bare_list) + 1 == tx.slots)
    tx.write(word, make_slot(state, tx.me, NO_SLOT))
    tx.write(BARE_LIST, make_bare_list(next_slot(value), made_of(bare_list) + 1))
    tx.slot = slot
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def settle(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """This slot, populated, is nobody's now: to the first in line, or kept, or the caller's to be punched."""
    gate: cython.ulonglong = tx.gate
    targets: cython.ulonglong = tx.known_targets if tx.is_known else tx.read(TARGETS)
    bare_list: cython.ulonglong = tx.known_bare_list if tx.is_known else tx.read(BARE_LIST)
    tx.slot = slot
    if not is_closed(gate):
        if waiting(gate) > 0:
            grant(tx, slot)
            return GRANTED
        if spares(gate) < reserve_of(targets) or (
            spares(gate) < keep_of(targets) and made_of(bare_list) <= limit_of(targets)
        ):
            push(tx, slot)
            return KEPT
    tx.write(slot_word(tx, slot), make_slot(PUNCHING, tx.me, NO_SLOT))
    return TO_PUNCH


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def take(tx: Transaction, may_populate: cython.bint) -> cython.ulonglong:
    """GOT: a spare beyond the reserve, or of it where there is nothing to populate. TO_POPULATE. NOTHING. CLOSED.

    `count`: FROM_SPARES or FROM_RESERVE, when it got one.
    """
    if not know(tx):
        return GONE
    if is_closed(tx.gate):
        return CLOSED
    if waiting(tx.gate) > 0:
        return NOTHING
    reserve: cython.ulonglong = reserve_of(tx.known_targets)
    if may_populate and spares(tx.gate) <= reserve and may_be_made(tx.known_targets, tx.known_bare_list):
        return TO_POPULATE if claim_bare(tx, tx.known_targets, POPULATING) else NOTHING  # NOTHING: broken
    if spares(tx.gate) == 0:
        return NOTHING
    tx.count = FROM_SPARES if spares(tx.gate) > reserve else FROM_RESERVE
    pop(tx, LEASED, tx.me, NO_SLOT)
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def fetch(tx: Transaction) -> cython.ulonglong:
    """TO_POPULATE: one more for the caller, though others wait: no spare, which they come first for. NOTHING. CLOSED."""
    if not is_live(tx):
        return GONE
    if is_closed(tx.gate):
        return CLOSED
    return TO_POPULATE if claim_bare(tx, tx.read(TARGETS), POPULATING) else NOTHING


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def is_mine(tx: Transaction, slot: cython.ulonglong, state: cython.ulonglong) -> cython.bint:
    value: cython.ulonglong = tx.read(slot_word(tx, slot))
    return state_of(value) == state and client_of(value) == tx.me


@cython.cfunc
@cython.exceptval(check=False)
def populated(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """The caller has populated it for itself. GOT."""
    if not is_live(tx):
        return GONE
    if not is_mine(tx, slot, POPULATING):
        return NOT_YOURS
    tx.write(slot_word(tx, slot), make_slot(LEASED, tx.me, NO_SLOT))
    tx.slot = slot
    tx.count = FROM_SOURCE
    return GOT


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def give(tx: Transaction, slot: cython.ulonglong, lease: cython.ulonglong) -> cython.ulonglong:
    """Return what was leased under this number. KEPT, GRANTED, TO_PUNCH, NOT_YOURS."""
    if not know(tx):
        return GONE
    if not is_mine(tx, slot, LEASED) or tx.sequence(slot_word(tx, slot)) != lease:
        return NOT_YOURS
    return settle(tx, slot)


@cython.cfunc
@cython.exceptval(check=False)
def scrap(tx: Transaction, slot: cython.ulonglong, lease: cython.ulonglong) -> cython.ulonglong:
    """What was leased under this number is broken: nobody gets it as it is. TO_PUNCH, NOT_YOURS."""
    if not is_live(tx):
        return GONE
    if not is_mine(tx, slot, LEASED) or tx.sequence(slot_word(tx, slot)) != lease:
        return NOT_YOURS
    tx.write(slot_word(tx, slot), make_slot(PUNCHING, tx.me, NO_SLOT))
    return TO_PUNCH


@cython.cfunc
@cython.exceptval(check=False)
def add(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """The caller has populated it for all. KEPT, GRANTED, TO_PUNCH."""
    if not is_live(tx):
        return GONE
    if not is_mine(tx, slot, FILLING):
        return NOT_YOURS
    recount(tx, FILLING_AT, False)
    return settle(tx, slot)


@cython.cfunc
@cython.exceptval(check=False)
def lay_bare(tx: Transaction, slot: cython.ulonglong, state: cython.ulonglong) -> cython.ulonglong:
    """The memory of the caller's slot, which was in this state, is gone."""
    if not is_live(tx):
        return GONE
    if not is_mine(tx, slot, state):
        return NOT_YOURS
    bare_list: cython.ulonglong = tx.read(BARE_LIST)
    if made_of(bare_list) == 0:
        tx.broken = True
        return NOT_YOURS
    if state == FILLING:
        recount(tx, FILLING_AT, False)
    tx.write(slot_word(tx, slot), make_slot(BARE, 0, first_bare(bare_list)))
    tx.write(BARE_LIST, make_bare_list(slot, made_of(bare_list) - 1))
    return KEPT


# -- what is offered: see offers.py


@cython.cfunc
@cython.exceptval(check=False)
def recount(tx: Transaction, at: cython.ulonglong, more: cython.bint) -> cython.void:
    """One slot more, or less, is counted at OFFERED_AT, QUARANTINED_AT or FILLING_AT."""
    counts: cython.ulonglong = tx.read(OFFERS)
    one: cython.ulonglong = 1
    number: cython.ulonglong = counts >> at & (FILLING_MAX if at == FILLING_AT else 0xFFFFFF)
    if (number >= tx.slots or (at == FILLING_AT and number == FILLING_MAX)) if more else (number == 0):
        tx.broken = True
        return
    tx.write(OFFERS, counts + (one << at) if more else counts - (one << at))


# -- the promise


@cython.cfunc
@cython.exceptval(check=False)
def retarget(tx: Transaction, targets: cython.ulonglong) -> cython.ulonglong:
    """All three at one moment. GOT; `value`: those before. CLOSED."""
    if not is_live(tx):
        return GONE
    if is_closed(tx.gate):
        return CLOSED
    tx.value = tx.read(TARGETS)
    tx.write(TARGETS, targets)
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def exchange(tx: Transaction, expected: cython.ulonglong, targets: cython.ulonglong) -> cython.ulonglong:
    """The same, if they are still what the caller made his of. GOT. NOTHING: they are not, look again. CLOSED."""
    if not is_live(tx):
        return GONE
    if is_closed(tx.gate):
        return CLOSED
    if tx.read(TARGETS) != expected:
        return NOTHING
    tx.write(TARGETS, targets)
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def shrink(tx: Transaction, to_reserve: cython.bint) -> cython.ulonglong:
    """TO_PUNCH: a spare that is surplus, or (to_reserve) beyond the reserve. NOTHING: none is."""
    if not is_live(tx):
        return GONE
    targets: cython.ulonglong = tx.read(TARGETS)
    kept: cython.ulonglong = max(keep_of(targets), reserve_of(targets))  # a keep that was given may be below it
    if is_closed(tx.gate):
        kept = 0
    elif to_reserve or made_of(tx.read(BARE_LIST)) > limit_of(targets):
        kept = reserve_of(targets)
    if spares(tx.gate) <= kept:
        return NOTHING
    pop(tx, PUNCHING, tx.me, NO_SLOT)
    return TO_PUNCH


@cython.cfunc
@cython.exceptval(check=False)
def grow(tx: Transaction, goal: cython.ulonglong) -> cython.ulonglong:
    """TO_POPULATE: one for the line, or for the reserve. NOTHING: none is lacking, or none is allowed.

    goal: FOR_LINE: only where somebody waits. FOR_RESERVE: also what the reserve lacks beside what others are making, in
    whatever process; if one of those is killed, whoever reaps it goes on. BEYOND_OUT: also what it would lack if all that is
    out came back. ALONE: also what others are making: who makes the pool answers for its reserve.

    For the line each makes its own: a process that is stopped in the middle must not have others wait for it.
    """
    if not is_live(tx):
        return GONE
    if is_closed(tx.gate):
        return NOTHING
    targets: cython.ulonglong = tx.read(TARGETS)
    filling: cython.ulonglong = filling_of(tx.read(OFFERS))
    enough: cython.bint = spares(tx.gate) + (0 if goal == ALONE else filling) >= reserve_of(targets)
    if goal == FOR_LINE or (goal == BEYOND_OUT and made_of(tx.read(BARE_LIST)) >= reserve_of(targets)):
        enough = True
    if (enough and waiting(tx.gate) == 0) or filling == FILLING_MAX or not claim_bare(tx, targets, FILLING):
        return NOTHING
    recount(tx, FILLING_AT, True)
    return TO_POPULATE


@cython.cfunc
@cython.exceptval(check=False)
def look(tx: Transaction) -> cython.ulonglong:
    """`value`: the targets, `count`: how many are made, `place`: how many the first in line has gathered; all of one moment.

    `slot`: how many are offered, in quarantine, and being made for all. `tx.gate`: the rest.
    """
    tx.slot = tx.read(OFFERS)
    tx.value = tx.read(TARGETS)
    tx.count = made_of(tx.read(BARE_LIST))
    tx.place = granted_of(tx.read(place_word(tx, head_of(tx.read(LINE))))) if waiting(tx.gate) > 0 else 0
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def look_for_head(tx: Transaction) -> cython.ulonglong:
    """GOT: the first in line stands at `place`, and may have new memory, as to the limit. NOTHING: none, or it may not."""
    if not is_live(tx):
        return GONE
    if waiting(tx.gate) == 0 or made_of(tx.read(BARE_LIST)) >= limit_of(tx.read(TARGETS)):
        return NOTHING
    tx.place = head_of(tx.read(LINE))
    tx.value = client_of(tx.read(place_word(tx, tx.place)))
    return GOT


# -- the line: places, doubly linked, first come, first served. Only the head gathers.


@cython.cfunc
@cython.exceptval(check=False)
def relink(tx: Transaction, place: cython.ulonglong, before: cython.ulonglong, behind: cython.ulonglong) -> cython.void:
    """The places on both sides of a gap become neighbours. (`place` says where the gap is, or that there is none.)"""
    line: cython.ulonglong = tx.read(LINE)
    head: cython.ulonglong = head_of(line)
    tail: cython.ulonglong = tail_of(line)
    word: cython.ulonglong
    links: cython.ulonglong
    if before == NO_PLACE:
        if head != place:
            tx.broken = True
        head = behind
    else:
        word = place_word(tx, before) + 1
        links = tx.read(word)
        if behind_of(links) != place:
            tx.broken = True
        tx.write(word, make_links(before_of(links), behind, first_granted(links)))
    if behind == NO_PLACE:
        if tail != place:
            tx.broken = True
        tail = before
    else:
        word = place_word(tx, behind) + 1
        links = tx.read(word)
        if before_of(links) != place:
            tx.broken = True
        tx.write(word, make_links(before, behind_of(links), first_granted(links)))
    tx.write(LINE, make_line(head, tail, first_empty(line)))
    if waiting(tx.gate) == 0:
        tx.broken = True
    tx.gate = make_gate(first_spare(tx.gate), spares(tx.gate), waiting(tx.gate) - 1, is_closed(tx.gate))


@cython.cfunc
@cython.exceptval(check=False)
def grant(tx: Transaction, slot: cython.ulonglong) -> cython.void:
    """The head of the line has one more. It leaves the line in the step that completes what it wants."""
    head: cython.ulonglong = head_of(tx.read(LINE))
    word: cython.ulonglong = place_word(tx, head)
    place: cython.ulonglong = tx.read(word)
    links: cython.ulonglong = tx.read(word + 1)
    granted: cython.ulonglong = granted_of(place) + 1
    if state_of(place) != WAITING or granted > wanted_of(place) or client_of(place) >= tx.clients:
        tx.broken = True
        return
    check_chain(tx, first_granted(links), granted == 1)
    tx.write(slot_word(tx, slot), make_slot(LEASED, client_of(place), first_granted(links)))
    if granted == wanted_of(place):
        relink(tx, head, before_of(links), behind_of(links))
        tx.write(word, make_place(SERVED, client_of(place), granted, granted))
        tx.write(word + 1, make_links(NO_PLACE, NO_PLACE, slot))
        tx.serve(head)
    else:
        tx.write(word, make_place(WAITING, client_of(place), wanted_of(place), granted))
        tx.write(word + 1, make_links(before_of(links), behind_of(links), slot))


@cython.cfunc
@cython.exceptval(check=False)
def grant_spares(tx: Transaction) -> cython.ulonglong:
    """Spares go to the line, a few at once. How many did."""
    moved: cython.ulonglong = 0
    while waiting(tx.gate) > 0 and spares(tx.gate) > 0 and moved < GRANTS_MAX and not tx.broken:
        pop(tx, LEASED, tx.me, NO_SLOT)  # grant writes whose it is
        if not tx.broken:
            grant(tx, tx.slot)
        moved += 1
    return moved


@cython.cfunc
@cython.exceptval(check=False)
def pump(tx: Transaction) -> cython.ulonglong:
    """GRANTED: some spares went to the line, and there may be more. NOTHING."""
    if not is_live(tx):
        return GONE
    return GRANTED if grant_spares(tx) > 0 else NOTHING


@cython.cfunc
@cython.exceptval(check=False)
def join(tx: Transaction, wanted: cython.ulonglong) -> cython.ulonglong:
    """GOT: `place` in the line, maybe served already. FULL, CLOSED, TOO_MANY. Then `pump`: it may want more than a step can.

    23 words at most: these four and the new place's two neighbours' links, and a slot, a place and its links for each grant.
    """
    if not is_live(tx):
        return GONE
    if is_closed(tx.gate):
        return CLOSED
    if wanted > limit_of(tx.read(TARGETS)):
        return TOO_MANY
    line: cython.ulonglong = tx.read(LINE)
    place: cython.ulonglong = first_empty(line)
    tail: cython.ulonglong = tail_of(line)
    head: cython.ulonglong = head_of(line)
    if place == NO_PLACE:
        return FULL
    word: cython.ulonglong = place_word(tx, place)
    links: cython.ulonglong
    following: cython.ulonglong = behind_of(tx.read(word + 1))
    if state_of(tx.read(word)) != EMPTY or (following != NO_PLACE and following >= tx.places):
        tx.broken = True
    if (tail == NO_PLACE) != (waiting(tx.gate) == 0) or waiting(tx.gate) >= tx.places:
        tx.broken = True
    tx.write(word, make_place(WAITING, tx.me, wanted, 0))
    tx.write(word + 1, make_links(tail, NO_PLACE, NO_SLOT))
    if tail == NO_PLACE:
        head = place
    else:
        word = place_word(tx, tail) + 1
        links = tx.read(word)
        if behind_of(links) != NO_PLACE:
            tx.broken = True
        tx.write(word, make_links(before_of(links), place, first_granted(links)))
    tx.write(LINE, make_line(head, place, following))
    tx.gate = make_gate(first_spare(tx.gate), spares(tx.gate), waiting(tx.gate) + 1, is_closed(tx.gate))
    tx.place = place
    grant_spares(tx)
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def vacate(tx: Transaction, place: cython.ulonglong, client: cython.ulonglong) -> cython.ulonglong:
    """A client's place becomes empty. GOT: it was served; NOTHING: it was not. From `slot` on, `count` slots are its."""
    word: cython.ulonglong = place_word(tx, place)
    value: cython.ulonglong = tx.read(word)
    links: cython.ulonglong = tx.read(word + 1)
    if state_of(value) == EMPTY or client_of(value) != client:
        return NOT_YOURS
    if state_of(value) == WAITING:
        relink(tx, place, before_of(links), behind_of(links))
    line: cython.ulonglong = tx.read(LINE)
    tx.write(word, make_place(EMPTY, 0, 0, 0))
    tx.write(word + 1, make_links(NO_PLACE, first_empty(line), NO_SLOT))
    tx.write(LINE, make_line(head_of(line), tail_of(line), place))
    tx.slot = first_granted(links)
    tx.count = granted_of(value)
    check_chain(tx, tx.slot, tx.count == 0)
    return GOT if state_of(value) == SERVED else NOTHING


@cython.cfunc
@cython.exceptval(check=False)
def leave(tx: Transaction, place: cython.ulonglong) -> cython.ulonglong:
    """The caller leaves the line, or takes what it was served with: what it has is leased by it."""
    if not is_live(tx):
        return GONE
    return vacate(tx, place, tx.me)


@cython.cfunc
@cython.exceptval(check=False)
def look_at_slot(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """GOT: the caller has leased it. `value`: under which number; `slot`: the next one that it gathered."""
    if not is_live(tx):
        return GONE
    if not is_mine(tx, slot, LEASED):
        return NOT_YOURS
    tx.slot = next_slot(tx.read(slot_word(tx, slot)))
    tx.value = tx.sequence(slot_word(tx, slot))
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def look_at_place(tx: Transaction, place: cython.ulonglong) -> cython.ulonglong:
    """NOTHING: the caller still waits there. GOT: served. CLOSED. TOO_MANY: the limit was lowered below what it wants."""
    if not is_live(tx):
        return GONE
    value: cython.ulonglong = tx.read(place_word(tx, place))
    if client_of(value) != tx.me or state_of(value) == EMPTY:
        return NOT_YOURS
    if state_of(value) == SERVED:
        return GOT
    if state_of(value) == SHUT:
        return CLOSED
    return TOO_MANY if wanted_of(value) > limit_of(tx.read(TARGETS)) else NOTHING


@cython.cfunc
@cython.exceptval(check=False)
def close(tx: Transaction) -> cython.ulonglong:
    """Nobody takes and nobody waits any more. GOT: the first in line was told, go on. NOTHING: all is closed."""
    if not is_live(tx):
        return GONE
    gate: cython.ulonglong = tx.gate
    tx.gate = make_gate(first_spare(gate), spares(gate), waiting(gate), 1)
    if waiting(gate) == 0:
        return NOTHING
    head: cython.ulonglong = head_of(tx.read(LINE))
    word: cython.ulonglong = place_word(tx, head)
    value: cython.ulonglong = tx.read(word)
    links: cython.ulonglong = tx.read(word + 1)
    if state_of(value) != WAITING:
        tx.broken = True
    relink(tx, head, before_of(links), behind_of(links))
    tx.write(word, make_place(SHUT, client_of(value), wanted_of(value), granted_of(value)))
    tx.write(word + 1, make_links(NO_PLACE, NO_PLACE, first_granted(links)))
    tx.serve(head)
    return GOT
