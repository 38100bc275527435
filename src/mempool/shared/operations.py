"""What a process does with a shared pool: decisions, and what they ask for in between. Killed anywhere, it is reaped.

Compiled into _engine.pyx; simulations run it as it is. Between two decisions anything may have happened; each of them looks
again. Nothing here keeps an answer of the transaction (`slot`, `count`, ...) beyond the next step, because another thread
of the process may use the same one while memory is being populated or punched.
"""

from typing import TYPE_CHECKING

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, all are in one file
    from mempool.shared.decisions import (
        FOR_RESERVE,
        GONE,
        GOT,
        GRANTED,
        NOTHING,
        TO_POPULATE,
        TO_PUNCH,
        add,
        close,
        exchange,
        fetch,
        give,
        grow,
        join,
        lay_bare,
        leave,
        look,
        look_at_place,
        look_at_slot,
        look_for_head,
        populated,
        pump,
        retarget,
        scrap,
        shrink,
        take,
    )
    from mempool.shared.membership import (
        attach,
        bury,
        detach,
        look_at_client,
        mark_surplus,
        reap_place,
        reap_slot,
        settle_down,
    )
    from mempool.shared.offers import end_offer, look_at_offer, look_at_quarantined, offer
    from mempool.shared.transaction import Transaction
    from mempool.shared.words import FILLING, LIVE, POPULATING, PUNCHING, UNSETTLED


@cython.cfunc
def punch_mine(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """A slot that is mine to be punched."""
    tx.punch(slot)
    return lay_down(tx, slot)


@cython.cfunc
def lay_down(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """A slot that was punched is bare."""
    while True:
        tx.begin()
        outcome = lay_bare(tx, slot, PUNCHING)
        if tx.finish():
            return outcome


@cython.cfunc
def run_take(tx: Transaction) -> cython.ulonglong:
    """GOT: `slot`, leased under the number `version`. NOTHING, CLOSED, GONE."""
    while True:
        tx.begin()
        outcome = take(tx, True)
        if tx.finish():
            break
    if outcome != TO_POPULATE:
        return outcome
    slot = tx.slot
    if tx.populate(slot):
        while True:
            tx.begin()
            outcome = populated(tx, slot)
            if tx.finish():
                return outcome
    put_back_unpopulated(tx, slot, POPULATING)
    return run_take_spare(tx)


@cython.cfunc
def run_take_spare(tx: Transaction) -> cython.ulonglong:
    """The same of what there is; nothing is populated."""
    while True:
        tx.begin()
        outcome = take(tx, False)
        if tx.finish():
            return outcome


@cython.cfunc
def put_back_unpopulated(tx: Transaction, slot: cython.ulonglong, state: cython.ulonglong) -> cython.ulonglong:
    """state: POPULATING or FILLING, as it was claimed."""
    while True:
        tx.begin()
        outcome = lay_bare(tx, slot, state)
        if tx.finish():
            return outcome


@cython.cfunc
def run_give(tx: Transaction, slot: cython.ulonglong, lease: cython.ulonglong) -> cython.ulonglong:
    """KEPT, GRANTED, TO_PUNCH (it was punched), NOT_YOURS, GONE."""
    while True:
        tx.begin()
        outcome = give(tx, slot, lease)
        if tx.finish():
            break
    if outcome == TO_PUNCH:
        punch_mine(tx, slot)
    return outcome


@cython.cfunc
def run_scrap(tx: Transaction, slot: cython.ulonglong, lease: cython.ulonglong) -> cython.ulonglong:
    """TO_PUNCH (it was punched), NOT_YOURS, GONE."""
    while True:
        tx.begin()
        outcome = scrap(tx, slot, lease)
        if tx.finish():
            break
    if outcome == TO_PUNCH:
        punch_mine(tx, slot)
    return outcome


@cython.cfunc
def run_offer(
    tx: Transaction,
    slot: cython.ulonglong,
    lease: cython.ulonglong,
    receiver: cython.ulonglong,
    epoch: cython.ulonglong,
) -> cython.ulonglong:
    """GOT: `version` is the number of the offer. NOTHING: there is no such receiver. NOT_YOURS, GONE."""
    while True:
        tx.begin()
        outcome = offer(tx, slot, lease, receiver, epoch)
        if tx.finish():
            return outcome


@cython.cfunc
def run_end_offer(
    tx: Transaction, slot: cython.ulonglong, number: cython.ulonglong, recalls: cython.bint
) -> cython.ulonglong:
    """GOT: `slot`, leased under the number `version`. NOT_YOURS, GONE."""
    while True:
        tx.begin()
        outcome = end_offer(tx, slot, number, recalls)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_at_offer(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_at_offer(tx, slot)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_at_quarantined(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_at_quarantined(tx, slot)
        if tx.finish():
            return outcome


@cython.cfunc
def run_shrink(tx: Transaction) -> cython.ulonglong:
    """Punch what is surplus, until nothing is. NOTHING, GONE."""
    while True:
        outcome = shrink_by_one(tx, False)
        if outcome != TO_PUNCH:
            return outcome


@cython.cfunc
def shrink_by_one(tx: Transaction, to_reserve: cython.bint) -> cython.ulonglong:
    """TO_PUNCH: a spare was punched. NOTHING: none is surplus, or (to_reserve) beyond the reserve. GONE."""
    while True:
        tx.begin()
        outcome = shrink(tx, to_reserve)
        if tx.finish():
            break
    if outcome == TO_PUNCH:
        punch_mine(tx, tx.slot)
    return outcome


@cython.cfunc
def run_grow(tx: Transaction) -> cython.ulonglong:
    """Populate what the line and the reserve lack. NOTHING: no more is lacking or allowed. TO_POPULATE: no memory. GONE."""
    while True:
        outcome = grow_by_one(tx, FOR_RESERVE)
        if outcome != GOT:
            return outcome


@cython.cfunc
def grow_by_one(tx: Transaction, goal: cython.ulonglong) -> cython.ulonglong:
    """GOT: one more was populated. NOTHING: no more is lacking or allowed. TO_POPULATE: no memory. GONE."""
    while True:
        tx.begin()
        outcome = grow(tx, goal)
        if tx.finish():
            break
    if outcome != TO_POPULATE:
        return outcome
    slot = tx.slot
    if not tx.populate(slot):
        put_back_unpopulated(tx, slot, FILLING)
        return TO_POPULATE
    while True:
        tx.begin()
        outcome = add(tx, slot)
        if tx.finish():
            break
    if outcome == TO_PUNCH:
        punch_mine(tx, slot)
    return GONE if outcome == GONE else GOT


@cython.cfunc
def run_fetch(tx: Transaction) -> cython.ulonglong:
    """GOT: `slot`, populated for the caller, though others wait. NOTHING, CLOSED, GONE."""
    while True:
        tx.begin()
        outcome = fetch(tx)
        if tx.finish():
            break
    if outcome != TO_POPULATE:
        return outcome
    slot = tx.slot
    if not tx.populate(slot):
        put_back_unpopulated(tx, slot, POPULATING)
        return NOTHING
    while True:
        tx.begin()
        outcome = populated(tx, slot)
        if tx.finish():
            return outcome


@cython.cfunc
def run_exchange(tx: Transaction, expected: cython.ulonglong, targets: cython.ulonglong) -> cython.ulonglong:
    """GOT; NOTHING: they have changed; CLOSED, GONE. Then run_shrink and run_grow."""
    while True:
        tx.begin()
        outcome = exchange(tx, expected, targets)
        if tx.finish():
            return outcome


@cython.cfunc
def run_retarget(tx: Transaction, targets: cython.ulonglong) -> cython.ulonglong:
    """GOT; CLOSED, GONE. Then run_shrink and run_grow."""
    while True:
        tx.begin()
        outcome = retarget(tx, targets)
        if tx.finish():
            return outcome


@cython.cfunc
def run_pump(tx: Transaction) -> cython.ulonglong:
    """Spares go to the line until one of them has no more. NOTHING, GONE."""
    while True:
        tx.begin()
        outcome = pump(tx)
        if tx.finish() and outcome != GRANTED:
            return outcome


@cython.cfunc
def run_join(tx: Transaction, wanted: cython.ulonglong) -> cython.ulonglong:
    """GOT: a `place`. FULL, CLOSED, TOO_MANY, GONE. The caller then pumps: until then a spare may lie beside the line."""
    while True:
        tx.begin()
        outcome = join(tx, wanted)
        if tx.finish():
            return outcome


@cython.cfunc
def run_leave(tx: Transaction, place: cython.ulonglong) -> cython.ulonglong:
    """GOT: was served; NOTHING: was not; the caller has `count` slots from `slot` on. NOT_YOURS, GONE."""
    while True:
        tx.begin()
        outcome = leave(tx, place)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_at_slot(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_at_slot(tx, slot)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_at_place(tx: Transaction, place: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_at_place(tx, place)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look(tx: Transaction) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look(tx)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_for_head(tx: Transaction) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_for_head(tx)
        if tx.finish():
            return outcome


@cython.cfunc
def run_close(tx: Transaction) -> cython.ulonglong:
    """Then run_shrink: what is spare goes back to the system."""
    while True:
        tx.begin()
        outcome = close(tx)
        if tx.finish() and outcome != GOT:
            return outcome


@cython.cfunc
def run_attach(tx: Transaction, client: cython.ulonglong, quarantines: cython.ulonglong) -> cython.ulonglong:
    """`value`: the epoch. FULL: then run_inherit."""
    while True:
        tx.begin()
        outcome = attach(tx, client, quarantines)
        if tx.finish():
            return outcome


@cython.cfunc
def run_look_at_client(tx: Transaction, client: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = look_at_client(tx, client)
        if tx.finish():
            return outcome


@cython.cfunc
def clear(tx: Transaction, client: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    """First its places in the line, so that nothing more is granted to it; then its slots. GOT, GONE."""
    number: cython.ulonglong
    for number in range(tx.places):
        while True:
            tx.begin()
            outcome = reap_place(tx, number, client, epoch)
            if tx.finish():
                break
        if outcome == GONE:
            return outcome
    for number in range(tx.slots):
        while True:
            tx.begin()
            outcome = reap_slot(tx, number, client, epoch)
            if tx.finish():
                break
        if outcome == TO_PUNCH:
            punch_mine(tx, number)
        if outcome == GONE:
            return outcome
    outcome = run_pump(tx)  # a joiner that died may have left spares beside the line
    return GONE if outcome == GONE else GOT


@cython.cfunc
def run_reap(tx: Transaction, client: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    """This client, in this epoch, was proven dead: all that it had is returned. GOT; NOTHING: somebody did it. GONE.

    Any number of processes may do so at once, and each may be killed.
    """
    while True:
        tx.begin()
        outcome = mark_surplus(tx, client, epoch)
        if tx.finish():
            break
    if outcome == GOT:
        outcome = clear(tx, client, epoch)
    if outcome != GOT:
        return outcome
    while True:
        tx.begin()
        outcome = bury(tx, client, epoch)
        if tx.finish():
            return GOT


@cython.cfunc
def run_inherit(tx: Transaction, quarantines: cython.ulonglong) -> cython.ulonglong:
    """All that is the caller's is returned: what a dead one left to it. Then it can be addressed. GOT, GONE."""
    outcome: cython.ulonglong = clear(tx, tx.me, tx.epoch)
    return outcome if outcome != GOT else run_settle_down(tx, LIVE, quarantines)


@cython.cfunc
def run_settle_down(tx: Transaction, state: cython.ulonglong, quarantines: cython.ulonglong) -> cython.ulonglong:
    while True:
        tx.begin()
        outcome = settle_down(tx, state, quarantines)
        if tx.finish():
            break
    if outcome == GOT:
        tx.epoch = tx.value
    return outcome


@cython.cfunc
def run_detach(tx: Transaction) -> cython.ulonglong:
    """GOT, GONE. First nothing can be addressed to it any more: what came after the last look would be lost.

    Who ends by itself has stopped what may still write: nothing of it is set aside.
    """
    outcome: cython.ulonglong = run_settle_down(tx, UNSETTLED, 0)
    if outcome == GOT:
        outcome = clear(tx, tx.me, tx.epoch)
    if outcome != GOT:
        return outcome
    while True:
        tx.begin()
        outcome = detach(tx)
        if tx.finish():
            return outcome
