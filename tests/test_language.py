"""The word list: idioms that names, messages, docstrings, comments and docs do not use.

Each idiom has a plain equivalent. `.codespell.txt` lists the single words, which codespell checks.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

INSTEAD = {
    r"\btold\b": "reported, says, prints",
    r"\bpass(?:ed|ing) over\b": "skip",
    r"\bone a (?:text|query|document|token|line|row|batch|process)\b": "one per ...",
    r"\bcould not be had\b|\bcan(?:not)? be had\b": "could not be downloaded, is not available",
    r"\b(?:is|are) none of\b": "is not one of",
    r"\bthe way (?:out|to|back)\b": "how to",
    r"\bmakes? no sense\b": "is not valid",
    r"\blet go of\b|\blets go of\b": "release",
    r"\b(?:has|have|had) not (?!been\b)(?:a|an|any|the|one|to)\b": "does not have",
    r"\bgiv(?:e|es|en|ing) back\b|\bgave back\b": "return",
    r"\band the like\b|\bor the like\b": "name the other cases",
    r"\bstands? twice\b": "appears twice",
    r"\bof (?:its|their|his) own\b": "separate, its",
    r"\bin (?:whose|its|their) stead\b": "instead",
    r"\b(?:is|are) said of\b": "applies to",
    r"\bat hand\b": "available, current",
    r"\bas it (?:were|is said)\b": "remove it",
    r"\bwhat (?:has|have) to be\b": "name the thing",
    r"\btakes? (?:it|them) along\b|\bgoes along\b|\bgo along\b": "is copied too, is included",
    r"\b(?:told|said|refused|reported) in (?:plain )?words\b": "with a message",
    r"\bat work\b": "running, current",
    r"\bof itself\b": "automatically",
    r"\bremember(?:s|ed)?\b": "records, stores",
    r"\bwhatever\b": "for any ...",
    r"\bgo(?:es)? on\b": "continue",
    r"\bby now\b": "already",
    r"\b(?:is|are) to (?:have|be)\b": "has, must be, is",
    r"\bstands? for\b": "names, matches, belongs to",
    r"\bReturn [a-z](?:_[a-z])? of\b|\bReturn [a-z]_[a-z],": "name the quantity",
    r"\b[Aa] (?:int|object|array|element|argument|error|index|id|item)\b": "an ...",
}
"""Pattern -> what to write instead."""

FOLDERS = ("splade_retriever", "tests", "benchmarks", "model_building", "research", "docs")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "noxfile.py")


def sources() -> list[Path]:
    """Return every file that is checked, this one excepted."""
    found = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md"}
    ]
    return sorted({*found, *(ROOT / file for file in FILES)} - {Path(__file__)})


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_uses_no_phrase_of_the_word_list(path: Path) -> None:
    text = re.sub(r"\s+#?\s*|_", " ", path.read_text("utf-8"))
    uses = [
        f"{found.group()!r} in {text[max(0, found.start() - 40) : found.end() + 40]!r}: write {plain!r}"
        for pattern, plain in INSTEAD.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not uses, "\n".join(uses)
