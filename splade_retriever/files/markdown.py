"""Sections of Markdown: the text under each heading, with the headings above it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from markdown_it import MarkdownIt

__all__ = ["Section", "sections"]

_MAX_HEADING: Final = 300
"""Characters of a heading. A longer one is a paragraph over a line of dashes by mistake, and stays text."""
_FRONT_MATTER_ENDS: Final = ("---", "...")


@dataclass(frozen=True, slots=True)
class Section:
    """The text between two headings."""

    headings: tuple[str, ...]
    """The headings above it, outermost first, as they are written; the title of the front matter first."""
    start: int
    """In characters of the text."""
    end: int


@dataclass(frozen=True, slots=True)
class _Heading:
    level: int
    words: str
    start: int
    end: int


def sections(text: str) -> list[Section]:
    """Cut Markdown at its headings, which belong to no section; a section may be blank.

    Args:
        text: Markdown with newlines as \\n.
    """
    title, start = _front_matter(text)
    above: list[tuple[int, str]] = [(0, title)] if title else []
    sections: list[Section] = []
    for heading in _headings(text, start):
        sections.append(Section(tuple(words for _, words in above), start, heading.start))
        above = [(level, words) for level, words in above if level < heading.level]
        if heading.words:
            above.append((heading.level, heading.words))
        start = heading.end
    sections.append(Section(tuple(words for _, words in above), start, len(text)))
    return sections


def _front_matter(text: str) -> tuple[str, int]:
    """Read YAML front matter: its title, "" if it has none, and where it ends, 0 if there is none."""
    if not text.startswith("---"):
        return "", 0
    title = ""
    end = 0
    for number, line in enumerate(text.split("\n")):
        end += len(line) + 1
        bare = line.rstrip(" \t")
        if number == 0:
            if bare != "---":
                break
        elif bare in _FRONT_MATTER_ENDS:
            return title, min(end, len(text))
        elif not title and line.startswith("title:"):
            title = _unquoted(line.removeprefix("title:").strip(" \t"))
    return "", 0


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _headings(text: str, start: int) -> Iterator[_Heading]:
    """Find the headings after `start`, without those in code, quotes and lists."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])  # what stands inside a heading is not parsed
    line_starts = list(accumulate((len(line) + 1 for line in text[start:].split("\n")), initial=start))
    tokens = parser.parse(text[start:])
    for opening, inline in pairwise(tokens):
        if opening.type != "heading_open" or opening.level != 0 or opening.map is None:
            continue
        words = " ".join(inline.content.split())
        if len(words) <= _MAX_HEADING:
            first, last = opening.map
            yield _Heading(int(opening.tag[1:]), words, line_starts[first], min(line_starts[last], len(text)))
