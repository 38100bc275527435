"""The decisions of passing on: who has leased an element offers it, and whoever adopts it has leased it then.

Compiled into _engine.pyx; simulations run it as it is. The rules of decisions.py hold here. In between, too, an offered slot
is one client's, whom its word names: its offerer (OFFERED), or its receiver (ADDRESSED). If that one ends, it is reaped like
everything else that it had.
"""

from typing import TYPE_CHECKING

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, all are in one file
    from mempool.shared.decisions import (
        GONE,
        GOT,
        NOT_YOURS,
        NOTHING,
        client_word,
        is_live,
        is_mine,
        recount,
        slot_word,
    )
    from mempool.shared.transaction import Transaction
    from mempool.shared.words import (
        ADDRESSED,
        ANYBODY,
        LEASED,
        LIVE,
        NO_SLOT,
        OFFERED,
        OFFERED_AT,
        QUARANTINED,
        QUARANTINED_AT,
        client_of,
        make_addressed,
        make_client,
        make_offerer,
        make_slot,
        offerer_of,
        state_of,
    )


@cython.cfunc
@cython.exceptval(check=False)
def offer(
    tx: Transaction,
    slot: cython.ulonglong,
    lease: cython.ulonglong,
    receiver: cython.ulonglong,
    epoch: cython.ulonglong,
) -> cython.ulonglong:
    """What was leased under this number is offered: to ANYBODY, and stays the caller's; or to a client, and is that one's.

    GOT: `version` is the number of the offer. NOT_YOURS. NOTHING: that client, in that epoch, is not there.
    """
    if not is_live(tx):
        return GONE
    word: cython.ulonglong = slot_word(tx, slot)
    if not is_mine(tx, slot, LEASED) or tx.sequence(word) != lease:
        return NOT_YOURS
    if receiver == ANYBODY:
        tx.write(word, make_slot(OFFERED, tx.me, NO_SLOT))
    elif tx.read(client_word(tx, receiver)) == make_client(LIVE, epoch):
        tx.write(word, make_addressed(receiver, make_offerer(tx.me, tx.epoch)))
    else:
        return NOTHING
    recount(tx, OFFERED_AT, True)
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def has_offered(tx: Transaction, value: cython.ulonglong) -> cython.bint:
    """Whether the caller has offered this slot."""
    if state_of(value) == OFFERED:
        return client_of(value) == tx.me
    return state_of(value) == ADDRESSED and offerer_of(value) == make_offerer(tx.me, tx.epoch)


@cython.cfunc
@cython.exceptval(check=False)
def end_offer(tx: Transaction, slot: cython.ulonglong, number: cython.ulonglong, recalls: cython.bint) -> cython.ulonglong:
    """What was offered under this number is leased by the caller: who adopts it, or recalls what it has offered itself.
    What is in quarantine since then can be adopted by anybody, too.

    GOT: `version` is the number of its lease. NOT_YOURS: it is not offered under that number any more, or not to the caller.
    """
    if not is_live(tx):
        return GONE
    word: cython.ulonglong = slot_word(tx, slot)
    value: cython.ulonglong = tx.read(word)
    if tx.sequence(word) != number:
        return NOT_YOURS
    if recalls:
        if not has_offered(tx, value):
            return NOT_YOURS
    elif state_of(value) == QUARANTINED:
        tx.write(word, make_slot(LEASED, tx.me, NO_SLOT))
        recount(tx, QUARANTINED_AT, False)
        tx.slot = slot
        return GOT
    elif state_of(value) != OFFERED and (state_of(value) != ADDRESSED or client_of(value) != tx.me):
        return NOT_YOURS
    tx.write(word, make_slot(LEASED, tx.me, NO_SLOT))
    recount(tx, OFFERED_AT, False)
    tx.slot = slot
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def look_at_quarantined(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """GOT: it is in quarantine, and `value` is the number under which it can be adopted. NOT_YOURS."""
    tx.value = tx.sequence(slot_word(tx, slot))
    return GOT if state_of(tx.read(slot_word(tx, slot))) == QUARANTINED else NOT_YOURS


@cython.cfunc
@cython.exceptval(check=False)
def look_at_offer(tx: Transaction, slot: cython.ulonglong) -> cython.ulonglong:
    """GOT: the caller has offered it (`count` is 1), or it is addressed to the caller. NOT_YOURS.

    `value`: under which number; `place`: to which client, or ANYBODY.
    """
    if not is_live(tx):
        return GONE
    value: cython.ulonglong = tx.read(slot_word(tx, slot))
    tx.value = tx.sequence(slot_word(tx, slot))
    tx.place = client_of(value) if state_of(value) == ADDRESSED else ANYBODY
    tx.count = 1 if has_offered(tx, value) else 0
    return GOT if tx.count == 1 or tx.place == tx.me else NOT_YOURS
