"""Markdown to sections: which lines are headings, and what stands above a passage."""

import time
from pathlib import Path

import pytest

from splade_retriever.files.markdown import sections
from tests.files.reading import passages_of, read, words


def test_a_markdown_passage_carries_its_headings(tmp_path: Path) -> None:
    text = "intro\n\n# Moon\n\nrock\n\n## Far side\ncraters\n\n# Mars #\ndust\n"

    found = passages_of(read(tmp_path / "a.md", text))

    assert [(p.text, p.metadata.get("heading"), p.metadata["line"]) for p in found] == [
        ("intro", None, 1),
        ("rock", "Moon", 5),
        ("craters", "Moon > Far side", 8),
        ("dust", "Mars", 11),
    ]
    assert [p.context for p in found] == ["", "Moon", "Moon > Far side", "Mars"]


def test_code_front_matter_and_underlined_headings_are_understood(tmp_path: Path) -> None:
    text = '---\ntitle: "Guide"\n---\nUse it\n======\n```sh\n# no heading\n```\nAfter\n-----\nend\n'

    found = passages_of(read(tmp_path / "a.md", text))

    assert [(p.text, p.metadata["heading"]) for p in found] == [
        ("```sh\n# no heading\n```", "Guide > Use it"),
        ("end", "Guide > Use it > After"),
    ]


def test_a_list_or_table_above_a_rule_is_not_a_heading(tmp_path: Path) -> None:
    (found,) = passages_of(read(tmp_path / "a.md", "- item\n---\n\n| a |\n|---|\n"))

    assert "heading" not in found.metadata


@pytest.mark.parametrize(
    "line",
    ["# a" + " " * 50_000 + "b", "# a" + " #" * 50_000, ">" * 50_000, "- " * 50_000, "[a" * 50_000],
    ids=["blanks", "hashes", "quotes", "lists", "links"],
)
def test_the_time_grows_linearly_with_the_length_of_a_line(line: str) -> None:
    started = time.perf_counter()

    sections(f"{line}\n\nend\n")

    assert time.perf_counter() - started < 2


def test_front_matter_with_a_long_title_is_read_in_linear_time() -> None:
    started = time.perf_counter()

    (section,) = sections("---\ntitle: a" + " " * 50_000 + "b\n---\nend\n")

    assert time.perf_counter() - started < 2
    assert section.headings[0].startswith("a ")


def test_lines_are_counted_by_newlines_only(tmp_path: Path) -> None:
    text = "# One\n\nform\x0cfeed and \u2028 separator\n\n# Two\n\nend\n"

    found = passages_of(read(tmp_path / "a.md", text))

    assert [(p.text, p.metadata["heading"], p.metadata["line"]) for p in found] == [
        ("form\x0cfeed and \u2028 separator", "One", 3),
        ("end", "Two", 7),
    ]


def test_headings_in_quotes_lists_html_and_indented_code_are_text(tmp_path: Path) -> None:
    text = "# Top\n\n> # quoted\n\n- # listed\n\n<!--\n# hidden\n-->\n\n    # code\n\nend\n"

    found = passages_of(read(tmp_path / "a.md", text))

    assert {p.metadata["heading"] for p in found} == {"Top"}


def test_a_heading_of_more_than_300_characters_is_text(tmp_path: Path) -> None:
    (found,) = passages_of(read(tmp_path / "a.md", f"{words(100)}\n---\nend\n", tokens=256))

    assert "heading" not in found.metadata
    assert found.text.startswith("word word")
