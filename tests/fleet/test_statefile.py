"""The file of a fleet's state: whole or not at all, and never loaded as code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mempool.fleet import Order, Targets
from mempool.fleet.statefile import StateFile

ORDERS = [
    Order("staging", 17, Targets(16, limit=20), b"\x80\x05any bytes", {"timeout": 60.0, "track": None}),
    Order("other", 3, Targets(0, keep=5), b"", {}, 2),
    Order("gone", 9, Targets(1), b"", {}, 5, True),
]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """Revisions, targets, bytes and options; nothing where there was no file."""
    file = StateFile(tmp_path / "state.json")
    assert file.load() == []
    file.save(ORDERS)
    assert file.load() == ORDERS
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "pools": []}', '{"version": 1, "pools": [{}]}'])
def test_what_is_no_state_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """A fleet does not begin with half of what was wanted."""
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"state\.json holds no state of a fleet"):
        StateFile(path).load()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a crash in the middle."""
    file = StateFile(tmp_path / "state.json")
    file.save(ORDERS[:1])

    def full(*_: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        file.save(ORDERS)
    monkeypatch.undo()
    assert file.load() == ORDERS[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
