"""The decisions of clients: who becomes one, who leaves, and what is returned of one that has died.

Compiled into _engine.pyx; simulations run it as it is. The rules of decisions.py hold here.
"""

from typing import TYPE_CHECKING

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, all are in one file
    from mempool.shared.decisions import (
        FULL,
        GONE,
        GOT,
        KEPT,
        NOT_YOURS,
        NOTHING,
        TO_PUNCH,
        client_word,
        is_live,
        recount,
        settle,
        slot_word,
        vacate,
    )
    from mempool.shared.transaction import Transaction
    from mempool.shared.words import (
        ABSENT,
        ADDRESSED,
        ANYBODY,
        BARE,
        DEAD,
        FILLING,
        FILLING_AT,
        LEASED,
        LIVE,
        NO_SLOT,
        OFFERED,
        OFFERED_AT,
        PUNCHING,
        QUARANTINED,
        QUARANTINED_AT,
        SPARE,
        UNSETTLED,
        client_of,
        client_state,
        epoch_of,
        make_client,
        make_slot,
        next_epoch,
        sets_aside,
        state_of,
        with_quarantine,
    )


@cython.cfunc
@cython.exceptval(check=False)
def attach(tx: Transaction, client: cython.ulonglong, quarantines: cython.ulonglong) -> cython.ulonglong:
    """The caller, who holds this client's lock, is this client from now on. `value`: its epoch.

    GOT. FULL: a dead one left it behind, and what that one had is the caller's now: see operations.run_inherit, and until
    then it is unsettled: what others address to it would be returned with the rest; and what it has is set aside as the
    dead one wanted it.
    """
    word: cython.ulonglong = client_word(tx, client)
    value: cython.ulonglong = tx.read(word)
    if client_state(value) == ABSENT:
        tx.value = with_quarantine(next_epoch(epoch_of(value)), quarantines)
        tx.write(word, make_client(LIVE, tx.value))
        return GOT
    tx.value = with_quarantine(next_epoch(epoch_of(value)), sets_aside(epoch_of(value)))
    tx.write(word, make_client(UNSETTLED, tx.value))
    return FULL


@cython.cfunc
@cython.exceptval(check=False)
def settle_down(tx: Transaction, state: cython.ulonglong, quarantines: cython.ulonglong) -> cython.ulonglong:
    """The caller can be addressed from now on (LIVE), or no more (UNSETTLED). GOT, GONE. `value`: its epoch from now on."""
    if not is_live(tx):
        return GONE
    tx.value = with_quarantine(tx.epoch, quarantines)
    tx.write(client_word(tx, tx.me), make_client(state, tx.value))
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def detach(tx: Transaction) -> cython.ulonglong:
    """The caller, who has nothing any more, is no client. GOT, GONE."""
    if not is_live(tx):
        return GONE
    tx.write(client_word(tx, tx.me), make_client(ABSENT, tx.epoch))
    return GOT


@cython.cfunc
@cython.exceptval(check=False)
def look_at_client(tx: Transaction, client: cython.ulonglong) -> cython.ulonglong:
    """Its state, `value`: its epoch."""
    value: cython.ulonglong = tx.read(client_word(tx, client))
    tx.value = epoch_of(value)
    return client_state(value)


@cython.cfunc
@cython.exceptval(check=False)
def may_reap(tx: Transaction, client: cython.ulonglong, epoch: cython.ulonglong) -> cython.bint:
    """Whether this very client is being reaped, or is the caller. Else a slow reaper could take what its successor has."""
    if client == tx.me:
        return epoch == tx.epoch  # which `is_live` has looked at
    return tx.read(client_word(tx, client)) == make_client(DEAD, epoch)


@cython.cfunc
@cython.exceptval(check=False)
def mark_surplus(tx: Transaction, client: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    """This client was proven dead. GOT: reap it. NOTHING: it is reaped already."""
    word: cython.ulonglong = client_word(tx, client)
    if not is_live(tx):
        return GONE
    if client == tx.me:
        return NOTHING
    value: cython.ulonglong = tx.read(word)
    if value == make_client(LIVE, epoch) or value == make_client(UNSETTLED, epoch):
        tx.write(word, make_client(DEAD, epoch))
        return GOT
    return GOT if may_reap(tx, client, epoch) else NOTHING


@cython.cfunc
@cython.exceptval(check=False)
def reap_place(
    tx: Transaction, place: cython.ulonglong, client: cython.ulonglong, epoch: cython.ulonglong
) -> cython.ulonglong:
    """Its place in the line becomes empty."""
    if not is_live(tx):
        return GONE
    if not may_reap(tx, client, epoch):
        return NOTHING
    return vacate(tx, place, client)


@cython.cfunc
@cython.exceptval(check=False)
def reap_slot(
    tx: Transaction, slot: cython.ulonglong, client: cython.ulonglong, epoch: cython.ulonglong
) -> cython.ulonglong:
    """What it had is returned, or set aside. TO_PUNCH: it is the caller's now; else a slow reaper would punch another's."""
    if not is_live(tx):
        return GONE
    if not may_reap(tx, client, epoch):
        return NOTHING
    word: cython.ulonglong = slot_word(tx, slot)
    value: cython.ulonglong = tx.read(word)
    if client_of(value) != client or state_of(value) == BARE or state_of(value) == SPARE or state_of(value) == QUARANTINED:
        return NOT_YOURS
    if state_of(value) == OFFERED or state_of(value) == ADDRESSED:
        recount(tx, OFFERED_AT, False)
    if sets_aside(epoch) == 1 and (state_of(value) == OFFERED or state_of(value) == LEASED):
        recount(tx, QUARANTINED_AT, True)
        tx.write(word, make_slot(QUARANTINED, ANYBODY, NO_SLOT))
        return KEPT
    if state_of(value) == OFFERED or state_of(value) == ADDRESSED or state_of(value) == LEASED:
        return settle(tx, slot)
    if state_of(value) == FILLING:
        recount(tx, FILLING_AT, False)
    tx.write(word, make_slot(PUNCHING, tx.me, NO_SLOT))
    return TO_PUNCH


@cython.cfunc
@cython.exceptval(check=False)
def bury(tx: Transaction, client: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    """It has nothing any more, and its number can be used again."""
    if client == tx.me or not may_reap(tx, client, epoch):
        return NOTHING
    tx.write(client_word(tx, client), make_client(ABSENT, epoch))
    return GOT
