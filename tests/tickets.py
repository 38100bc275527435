"""Tickets for tests that make a core decide without a pool around it: each notes when it is woken."""

from mempool._core import Ticket


def ticket(wanted: int = 1) -> tuple[Ticket, list[bool]]:
    """A ticket for so many elements, and a list that grows by one each time it is woken."""
    woken: list[bool] = []
    made = Ticket(wanted)
    made.set_waiter(lambda: woken.append(True), None, 0)
    return made, woken
