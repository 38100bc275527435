"""Fields in words, and that the compiled engine and the simulated one mean the same by every number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_scenes import CHILD, Scene, adopt, offer
from simulated_pool import Process

from mempool.shared import decisions, layout, operations, words

pytestmark = pytest.mark.once

bits = [st.integers(0, (1 << width) - 1) for width in range(65)]


def test_the_compiled_engine_has_the_same_constants() -> None:
    """They are written down twice, because C cannot read them."""
    engine = pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine")
    written = {**vars(decisions), **vars(words)}
    assert {name: written[name] for name in engine.CONSTANTS} == engine.CONSTANTS


def test_the_layout_of_a_file_has_the_same_constants() -> None:
    """It is read without words.py, which needs the core."""
    names = ("SLOTS_MAX", "PLACES_MAX", "CLIENTS_MAX", "FIRST_SLOT")
    assert [getattr(layout, name) for name in names] == [getattr(words, name) for name in names]


@given(bits[24], bits[24], bits[15], bits[1])
def test_the_gate_gives_back_what_was_put_in(first: int, spares: int, waiting: int, closed: int) -> None:
    gate = words.make_gate(first, spares, waiting, closed)
    assert (words.first_spare(gate), words.spares(gate), words.waiting(gate)) == (first, spares, waiting)
    assert words.is_closed(gate) == bool(closed)
    assert gate < 1 << 64


@given(bits[21], bits[21], bits[21])
def test_targets_give_back_what_was_put_in(reserve: int, keep: int, limit: int) -> None:
    targets = words.make_targets(reserve, keep, limit)
    assert (words.reserve_of(targets), words.keep_of(targets), words.limit_of(targets)) == (reserve, keep, limit)
    assert targets < 1 << 64


@given(bits[4], bits[16], bits[20], bits[20], bits[24])
def test_slots_and_places_give_back_what_was_put_in(
    state: int, client: int, wanted: int, granted: int, following: int
) -> None:
    slot = words.make_slot(state, client, following)
    assert (words.state_of(slot), words.client_of(slot), words.next_slot(slot)) == (state, client, following)
    place = words.make_place(state, client, wanted, granted)
    assert (words.state_of(place), words.client_of(place)) == (state, client)
    assert (words.wanted_of(place), words.granted_of(place)) == (wanted, granted)


@given(bits[16], bits[16], bits[24], bits[24], bits[24])
def test_lists_give_back_what_was_put_in(one: int, two: int, three: int, first: int, made: int) -> None:
    links = words.make_links(one, two, three)
    assert (words.before_of(links), words.behind_of(links), words.first_granted(links)) == (one, two, three)
    line = words.make_line(one, two, one)
    assert (words.head_of(line), words.tail_of(line), words.first_empty(line)) == (one, two, one)
    bare_list = words.make_bare_list(first, made)
    assert (words.first_bare(bare_list), words.made_of(bare_list)) == (first, made)


@given(bits[24], bits[24], bits[16])
def test_what_is_counted_is_told_apart(offered: int, quarantined: int, filling: int) -> None:
    counts = offered << words.OFFERED_AT | quarantined << words.QUARANTINED_AT | filling << words.FILLING_AT
    assert (words.offered_of(counts), words.quarantined_of(counts), words.filling_of(counts)) == (
        offered,
        quarantined,
        filling,
    )
    assert counts < 1 << 64


@given(bits[16], bits[11], bits[32])
def test_an_addressed_slot_gives_back_what_was_put_in(receiver: int, offerer: int, epoch: int) -> None:
    slot = words.make_addressed(receiver, words.make_offerer(offerer, epoch))
    assert (words.state_of(slot), words.client_of(slot)) == (words.ADDRESSED, receiver)
    assert words.offerer_of(slot) == words.make_offerer(offerer, epoch) == offerer | epoch << 11
    assert slot < 1 << 64


@pytest.mark.parametrize("attachments", [1, 1 << 13, 1 << 16, 1 << 30])
def test_an_offer_is_no_successors_of_its_offerer(attachments: int) -> None:
    """However often processes have attached under its number since: it can be recalled by the one who made it."""
    scene = Scene.make(0)
    token = offer(scene.child, scene.held[0], scene.third)
    assert token
    operations.run_detach(scene.child)
    word = words.FIRST_SLOT + scene.memory.slots + 2 * scene.memory.places + CHILD
    number = words.epoch_of(scene.memory.words[word][0]) + attachments - 1
    scene.memory.words[word][0] = words.make_client(words.ABSENT, number)  # as so many leave it who come and go
    successor = Process(scene.memory, CHILD)
    successor.become(CHILD)
    assert adopt(successor, token, recalls=True) is None
    assert adopt(scene.third, token)


@given(bits[2], bits[32])
def test_a_client_gives_back_what_was_put_in(state: int, epoch: int) -> None:
    client = words.make_client(state, epoch)
    assert (words.client_state(client), words.epoch_of(client)) == (state, epoch)


@given(st.sampled_from([n for n in dir(words) if n.endswith("_of") or n.startswith(("first_", "next_"))]), bits[64])
def test_no_number_is_wider_than_its_field(name: str, value: int) -> None:
    """So whatever bytes there are, an index has 24 bits at most, and is compared before it is used."""
    assert 0 <= getattr(words, name)(value) < 1 << (43 if name == "offerer_of" else 32)  # which is compared, and no index
