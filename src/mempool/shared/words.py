"""The words of a shared pool: how numbers lie in 64 bits. Compiled into _engine.pyx, and run as it is by simulations.

    the gate    first spare:24 | spares:24 | waiting:15 | closed:1      beside the root, so that each commit compares it, too
    word 0      reserve:21 | keep:21 | limit:21 | keep follows:1        the targets, which change together
    word 1      first bare slot:24 | made:24
    word 2      head of the line:16 | tail:16 | first empty place:16
    word 3      offered:24 | quarantined:24 | filling:16                how many slots
    then        for each slot    state:4 | client:16 | next slot:24       or, of an addressed one, | offerer:43
    then        for each place   state:4 | client:16 | wanted:20 | granted:20   and   before:16 | behind:16 | first slot:24
    then        for each client  state:2 | epoch:32, whose highest bit says that what it has is set aside if it is killed

`next slot` chains the spares, the bare slots, or what one request has gathered. No function here trusts what it is given:
each result is as wide as its field, and whoever uses it as an index compares it first (see decisions.py).
"""

from typing import TYPE_CHECKING

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # _engine.pyx says the same in C; tests/shared/test_words.py compares them
    NO_SLOT = 0xFFFFFF
    NO_PLACE = 0xFFFF
    SLOTS_MAX = (1 << 21) - 1  # the targets have 21 bits each
    PLACES_MAX = (1 << 15) - 1
    CLIENTS_MAX = (1 << 11) - 1
    TARGETS, BARE_LIST, LINE, OFFERS, FIRST_SLOT = range(5)
    # The states of a slot. BARE has no memory; of all others it is there, or is on its way (POPULATING, PUNCHING).
    # OFFERED: to anybody, and its client's who has offered it. ADDRESSED: its client's to whom it was offered.
    # QUARANTINED: nobody's; a killed client had it who wanted it to be looked at before anybody uses it.
    # FILLING: as POPULATING, but for the line or the reserve, so that nobody else makes the same once more.
    BARE, POPULATING, SPARE, LEASED, PUNCHING, OFFERED, ADDRESSED, QUARANTINED, FILLING = range(9)
    # Where word 3 counts them.
    OFFERED_AT, QUARANTINED_AT, FILLING_AT = 0, 24, 48
    FILLING_MAX = (1 << 16) - 1
    ANYBODY = 0xFFFF  # no client has this number
    # The states of a place in the line.
    EMPTY, WAITING, SERVED, SHUT = range(4)
    # The states of a client. UNSETTLED: it attaches or detaches; it works, and nothing can be addressed to it.
    ABSENT, LIVE, DEAD, UNSETTLED = range(4)


@cython.cfunc
@cython.exceptval(check=False)
def make_gate(
    first: cython.ulonglong, spares: cython.ulonglong, waiting: cython.ulonglong, closed: cython.ulonglong
) -> cython.ulonglong:
    return first | spares << 24 | waiting << 48 | closed << 63


@cython.cfunc
@cython.exceptval(check=False)
def first_spare(gate: cython.ulonglong) -> cython.ulonglong:
    return gate & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def spares(gate: cython.ulonglong) -> cython.ulonglong:
    return gate >> 24 & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def waiting(gate: cython.ulonglong) -> cython.ulonglong:
    return gate >> 48 & 0x7FFF


@cython.cfunc
@cython.exceptval(check=False)
def is_closed(gate: cython.ulonglong) -> cython.bint:
    return gate >> 63 != 0


@cython.cfunc
@cython.exceptval(check=False)
def make_targets(reserve: cython.ulonglong, keep: cython.ulonglong, limit: cython.ulonglong) -> cython.ulonglong:
    return reserve | keep << 21 | limit << 42


@cython.cfunc
@cython.exceptval(check=False)
def reserve_of(targets: cython.ulonglong) -> cython.ulonglong:
    return targets & 0x1FFFFF


@cython.cfunc
@cython.exceptval(check=False)
def keep_of(targets: cython.ulonglong) -> cython.ulonglong:
    return targets >> 21 & 0x1FFFFF


@cython.cfunc
@cython.exceptval(check=False)
def limit_of(targets: cython.ulonglong) -> cython.ulonglong:
    return targets >> 42 & 0x1FFFFF


@cython.cfunc
@cython.exceptval(check=False)
def keep_follows(targets: cython.ulonglong) -> cython.bint:
    """Whether nobody has given a keep, so that it is twice the reserve, whatever that becomes."""
    return targets >> 63 != 0


@cython.cfunc
@cython.exceptval(check=False)
def make_bare_list(first: cython.ulonglong, made: cython.ulonglong) -> cython.ulonglong:
    return first | made << 24


@cython.cfunc
@cython.exceptval(check=False)
def first_bare(bare_list: cython.ulonglong) -> cython.ulonglong:
    return bare_list & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def made_of(bare_list: cython.ulonglong) -> cython.ulonglong:
    return bare_list >> 24 & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def make_line(head: cython.ulonglong, tail: cython.ulonglong, empty: cython.ulonglong) -> cython.ulonglong:
    return head | tail << 16 | empty << 32


@cython.cfunc
@cython.exceptval(check=False)
def head_of(line: cython.ulonglong) -> cython.ulonglong:
    return line & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def tail_of(line: cython.ulonglong) -> cython.ulonglong:
    return line >> 16 & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def first_empty(line: cython.ulonglong) -> cython.ulonglong:
    return line >> 32 & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def make_slot(state: cython.ulonglong, client: cython.ulonglong, following: cython.ulonglong) -> cython.ulonglong:
    return state | client << 4 | following << 20


@cython.cfunc
@cython.exceptval(check=False)
def state_of(value: cython.ulonglong) -> cython.ulonglong:
    """Of a slot or of a place."""
    return value & 15


@cython.cfunc
@cython.exceptval(check=False)
def client_of(value: cython.ulonglong) -> cython.ulonglong:
    """Whose a slot or a place is."""
    return value >> 4 & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def next_slot(slot: cython.ulonglong) -> cython.ulonglong:
    return slot >> 20 & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def make_place(
    state: cython.ulonglong, client: cython.ulonglong, wanted: cython.ulonglong, granted: cython.ulonglong
) -> cython.ulonglong:
    return state | client << 4 | wanted << 20 | granted << 40


@cython.cfunc
@cython.exceptval(check=False)
def wanted_of(place: cython.ulonglong) -> cython.ulonglong:
    return place >> 20 & 0xFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def granted_of(place: cython.ulonglong) -> cython.ulonglong:
    return place >> 40 & 0xFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def make_links(before: cython.ulonglong, behind: cython.ulonglong, slot: cython.ulonglong) -> cython.ulonglong:
    return before | behind << 16 | slot << 32


@cython.cfunc
@cython.exceptval(check=False)
def before_of(links: cython.ulonglong) -> cython.ulonglong:
    return links & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def behind_of(links: cython.ulonglong) -> cython.ulonglong:
    return links >> 16 & 0xFFFF


@cython.cfunc
@cython.exceptval(check=False)
def first_granted(links: cython.ulonglong) -> cython.ulonglong:
    return links >> 32 & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def make_client(state: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    return state | epoch << 2


@cython.cfunc
@cython.exceptval(check=False)
def client_state(client: cython.ulonglong) -> cython.ulonglong:
    return client & 3


@cython.cfunc
@cython.exceptval(check=False)
def epoch_of(client: cython.ulonglong) -> cython.ulonglong:
    return client >> 2 & 0xFFFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def next_epoch(epoch: cython.ulonglong) -> cython.ulonglong:
    """Of the next one under this number, who sets nothing aside."""
    return (epoch + 1) & 0x7FFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def sets_aside(epoch: cython.ulonglong) -> cython.ulonglong:
    """1: what a client has in this epoch is quarantined if it is killed."""
    return epoch >> 31 & 1


@cython.cfunc
@cython.exceptval(check=False)
def with_quarantine(epoch: cython.ulonglong, sets_it_aside: cython.ulonglong) -> cython.ulonglong:
    return (epoch & 0x7FFFFFFF) | (sets_it_aside & 1) << 31


@cython.cfunc
@cython.exceptval(check=False)
def offered_of(counts: cython.ulonglong) -> cython.ulonglong:
    return counts & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def quarantined_of(counts: cython.ulonglong) -> cython.ulonglong:
    return counts >> 24 & 0xFFFFFF


@cython.cfunc
@cython.exceptval(check=False)
def filling_of(counts: cython.ulonglong) -> cython.ulonglong:
    return counts >> 48


@cython.cfunc
@cython.exceptval(check=False)
def make_offerer(client: cython.ulonglong, epoch: cython.ulonglong) -> cython.ulonglong:
    """Who has offered an addressed slot: a client in its epoch, so that no successor under its number is meant."""
    return (client & 0x7FF) | (epoch & 0xFFFFFFFF) << 11


@cython.cfunc
@cython.exceptval(check=False)
def make_addressed(client: cython.ulonglong, offerer: cython.ulonglong) -> cython.ulonglong:
    """The word of a slot that is addressed to this client."""
    return ADDRESSED | client << 4 | offerer << 20


@cython.cfunc
@cython.exceptval(check=False)
def offerer_of(slot: cython.ulonglong) -> cython.ulonglong:
    return slot >> 20 & 0x7FFFFFFFFFF


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def may_be_made(targets: cython.ulonglong, bare_list: cython.ulonglong) -> cython.bint:
    """Whether there is a bare slot, and the limit allows it memory."""
    return first_bare(bare_list) != NO_SLOT and made_of(bare_list) < limit_of(targets)
