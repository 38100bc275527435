"""The checker of code that was only renamed or moved: it finds a difference, and only a difference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import same_code
from same_code import compare, main, pieces_of

pytestmark = pytest.mark.once

OLD = '''
"""A module."""

LIMIT = 4

class Shelf:
    """Holds."""

    __slots__ = ("_book", "_clock", "_zone")

    def put(self, element: object, room: int = LIMIT) -> bool:
        """Put it there."""
        left = room - len(self.shelf)
        if left > 0:  # there is room
            self.shelf.append(element)
            getattr(self, "tell")(element)
        return left > 0

def other() -> None:
    raise ValueError("the shelf is full")
'''
WORDS = {
    "Shelf": ["Spares"],
    "shelf": ["spares"],
    "put": ["push"],
    "tell": ["wake"],
    "left": ["free"],
    "_book": ["_tracker"],
}
RENAMED = (
    (
        OLD.replace("Shelf", "Spares")
        .replace("self.shelf", "self.spares")
        .replace("put(", "push(")
        .replace('"tell"', '"wake"')
    )
    .replace("left", "free")
    .replace('("_book", "_clock", "_zone")', '("_clock", "_tracker", "_zone")')
)


def compared(new: str, words: dict[str, list[str]] = WORDS, but_for: tuple[str, ...] = ()) -> same_code.Result:
    return compare(pieces_of("old.py", OLD, but_for), pieces_of("new.py", new, but_for), words)


def told(new: str) -> str:
    """What is said of the one piece that was changed."""
    ((_piece, difference),) = compared(new).changed
    return difference


def test_code_that_was_renamed_is_the_same() -> None:
    """Names, attributes, strings that are names, in an order of their own where they are listed; comments do not count."""
    result = compared(RENAMED.replace("  # there is room", "").replace("Put it there.", "Push it."))
    assert (result.same, result.changed, result.gone, result.new, result.said) == (4, [], [], [], [])


@pytest.mark.parametrize(
    ("sound", "broken", "why"),
    [
        ("left > 0:", "left >= 0:", "Gt is GtE now"),
        ("room - len", "room + len", "Sub is Add now"),
        ("return left > 0", "return True", "left > 0 is True now"),
        ("            self.shelf.append(element)\n", "", "2 of"),
        ("append(element)", "append(room)", "element"),
        ("append(element)", "extend(element)", "extend"),
        ('"tell"', '"told"', "told"),
        ("LIMIT) ->", "5) ->", "LIMIT"),
        ("room: int = LIMIT", "room: float = LIMIT", "int is float now"),
        ("LIMIT = 4", "LIMIT = 5", "5"),
        ('"_clock", ', "", "_clock"),
        ("def put(", "@staticmethod\n    def put(", "staticmethod"),
        ("def put(", "async def put(", "is async def put"),
        ('raise ValueError("the shelf is full")', "pass", "is pass now"),
    ],
)
def test_a_change_is_found(sound: str, broken: str, why: str) -> None:
    assert OLD.count(sound) == 1, OLD.count(sound)
    assert why in told(OLD.replace(sound, broken))


def test_a_name_that_may_not_be_renamed_is_a_change() -> None:
    assert "room is space now" in told(OLD.replace("room", "space"))


def test_two_variables_that_became_one_are_a_change() -> None:
    """Each rename is allowed, and the program is another."""
    new = OLD.replace("left", "room")
    result = compared(new, {"left": ["room"]})
    ((_piece, difference),) = result.changed
    assert "are both room now" in difference


def test_a_variable_that_was_renamed_here_and_not_there_is_a_change() -> None:
    new = OLD.replace("left = room", "free = room")
    assert "left is left here and free before" in told(new)


def test_what_moved_to_another_class_and_file_is_the_same() -> None:
    """Functions move whole. Behind a border, `self` may be somebody's."""
    new = OLD.replace("class Shelf:", "class Elsewhere(Base):").replace("self.shelf", "self._engine.shelf")
    assert compared(new).changed != []
    result = compared(new, but_for=("self._engine",))
    assert (result.same, result.changed, result.gone, result.new) == (4, [], [], [])


def test_what_is_gone_and_what_is_new_are_told_apart() -> None:
    new = OLD.replace("def other()", "def another()")
    result = compared(new)
    assert ([str(piece) for piece in result.gone], [str(piece) for piece in result.new]) == (
        ["old.py: other"],
        ["new.py: another"],
    )


def test_of_two_of_one_name_each_is_compared_with_its_own() -> None:
    """Also where the second has become the first: nothing is taken twice."""
    two = "class A:\n    def run(self): return 1\nclass B:\n    def run(self): return 2\n"
    once = "class A:\n    def run(self): return 1\nclass B:\n    def run(self): return 1\n"
    assert compare(pieces_of("a.py", two), pieces_of("b.py", two), {}).same == 2
    ((piece, _difference),) = compare(pieces_of("a.py", two), pieces_of("b.py", once), {}).changed
    assert str(piece) == "a.py: B.run"


def test_strings_that_say_something_else_are_listed() -> None:
    """They are for people to read, and a rename may change them."""
    result = compared(OLD.replace("the shelf is full", "there is no room"))
    assert [said[1:] for said in result.said] == [("the shelf is full", "there is no room")]
    assert result.changed == []


@pytest.mark.skipif(shutil.which("git") is None, reason="compares revisions of git")
def test_two_revisions_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two commits, and between a commit and the tree as it stands; the status says whether all is the same."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", *who, *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            env=os.environ | {"HOME": str(tmp_path)},
        )

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "old.py").write_text(OLD)
    git("add", ".")
    git("commit", "-q", "-m", "old")
    git("mv", "src/old.py", "src/new.py")
    (tmp_path / "src" / "new.py").write_text(RENAMED)
    git("commit", "-q", "-a", "-m", "new")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"words": WORDS}))
    assert main(["HEAD~", "HEAD", "--names", str(names)]) == 0
    assert "4 of 4 functions and constants are the same" in capsys.readouterr().out
    assert main(["HEAD~", "HEAD"]) == 1
    (tmp_path / "src" / "new.py").write_text(RENAMED.replace("LIMIT = 4", "LIMIT = 5"))
    assert main(["HEAD", "."]) == 1
    assert "CHANGED src/new.py: LIMIT" in capsys.readouterr().out
    assert main(["HEAD", "HEAD", "--under", "nowhere"]) == 1
