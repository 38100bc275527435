"""The pages for who carries on lead to the code as it stands today."""

import itertools
import re
from pathlib import Path

import links
import pytest

pytestmark = pytest.mark.once
ARCHITECTURE = "ARCHITECTURE.md"
QUESTIONS = 8
HOPS_MAX = 3


def rows() -> list[str]:
    """The answers to the questions that ARCHITECTURE.md begins with."""
    text = (links.TREE / ARCHITECTURE).read_text("utf-8")
    table = text.partition("| question | answer |\n|---|---|\n")[2].partition("\n\n")[0]
    return [row.split("|")[2] for row in table.splitlines()]


@pytest.mark.parametrize("page", links.PAGES)
def test_each_link_to_a_line_leads_to_the_definition_that_it_names(page: str) -> None:
    """Whoever follows a link stands before the function, and not twenty lines below it."""
    text = (links.TREE / page).read_text("utf-8")
    assert text == links.renewed(page), "lines have moved: python tests/tidy/links.py renews the numbers"


def test_each_question_is_answered_in_three_hops() -> None:
    """A question is answered by links alone, and no way from one definition to the next is longer than three."""
    answers = rows()
    assert len(answers) == QUESTIONS
    for answer in answers:
        assert links.LINK.search(answer), answer
        for sentence in re.split(r"\. |, its |; ", answer):
            assert sentence.count("->") < HOPS_MAX, sentence


def test_each_arrow_is_one_go_to_definition() -> None:
    """The code behind a link names the next: an editor leads from each definition to the one after the arrow."""
    arrows = 0
    for answer in rows():
        for sentence in re.split(r"\. |; ", answer):
            hops = [links.LINK.search(hop) for hop in sentence.split("->")]
            for here, there in itertools.pairwise(hops):
                assert here, sentence
                assert there, sentence
                names = links.names_in(links.TREE / here["path"], here["name"])
                assert there["name"].rpartition(".")[2] in names, f"{here[0]} does not lead to {there[0]}"
                arrows += 1
    assert arrows


def test_a_link_to_what_is_gone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A definition that was renamed or moved away leaves no link that looks right."""
    monkeypatch.setattr(links, "TREE", tmp_path)
    (tmp_path / "code.py").write_text("X = 1\n\n\nclass A:\n    def f(self): ...\n", "utf-8")
    (tmp_path / "code.pxd").write_text("cdef inline bint put(A self):\n    take(self)\ncdef inline take(A self)\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text("[`A.f`](code.py#L1) [`X`](code.py#L9) [`take`](code.pxd#L2)", "utf-8")
    assert links.renewed("page.md") == "[`A.f`](code.py#L5) [`X`](code.py#L1) [`take`](code.pxd#L3)"
    page.write_text("[`A.g`](code.py#L5)", "utf-8")
    with pytest.raises(LookupError, match=r"page\.md: code\.py defines no A\.g"):
        links.renewed("page.md")
