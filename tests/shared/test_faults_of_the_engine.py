"""The bugs that `make verify-shared` plants still fit the code, and each is looked for by those who could see it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")
shared_bugs = pytest.importorskip("verification.shared_bugs", reason="the tests run without the rest of the tree")

pytestmark = pytest.mark.once


@pytest.mark.parametrize("bug", shared_bugs.BUGS, ids=lambda bug: bug.name)
def test_each_bug_can_be_planted_and_is_looked_for(bug: shared_bugs.Bug, tmp_path: Path) -> None:
    """In the header, if it is one of the header's; and by something that runs the code."""
    assert shared_bugs.plant(bug, tmp_path) is (bug.patch is not None)
    assert ("spin" in bug.seen_by) is (bug.model is not None)
    if bug.model is not None:
        assert [run for run in shared_bugs.spin.RUNS if run.name == shared_bugs.BROKEN + bug.model]
    assert bug.seen_by - {"spin"}
    assert bug.seen_by <= set(shared_bugs.WAYS)


def test_a_bug_that_no_longer_fits_is_told(tmp_path: Path) -> None:
    """Rather than a sound header tried in its place."""
    bug = shared_bugs.Bug("gone", frozenset(), patch=("what is not in there", ""))
    with pytest.raises(ValueError, match="no longer what the bug was made for"):
        shared_bugs.plant(bug, tmp_path)


@pytest.mark.stress
@pytest.mark.parametrize("bug", shared_bugs.BUGS, ids=lambda bug: bug.name)
def test_each_planted_bug_is_seen_by_all_who_must_see_it(bug: shared_bugs.Bug, tmp_path: Path) -> None:
    """As `make verify-shared`."""
    answers = {way: shared_bugs.ask(way, bug, tmp_path) for way in sorted(bug.seen_by)}
    assert False not in answers.values(), answers
