"""Patterns of .gitignore files and of --exclude, with git's meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

__all__ = ["IgnoreRules"]

_FILE: Final = ".gitignore"
_MAX_BYTES: Final = 2**20
_ANY_FOLDERS: Final = "**"
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class _Pattern:
    segments: tuple[str, ...]
    """Shell patterns of the parts of a path; "**" for any number of folders."""
    negated: bool
    folders_only: bool
    folder: Path
    """The folder that the pattern is relative to."""
    origin: str
    """What a message calls it."""


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Patterns in order; the last one that matches a path decides."""

    patterns: tuple[_Pattern, ...] = ()

    @classmethod
    def of_repository(cls, folder: Path) -> IgnoreRules:
        """Read the .gitignore files above a folder, up to the root of its git repository."""
        above: list[Path] = []
        for parent in folder.resolve().parents:
            above.append(parent)
            if (parent / ".git").exists():
                break
        else:
            above = []
        rules = cls()
        for parent in reversed(above if not (folder / ".git").exists() else []):
            rules = rules.with_file_of(parent)
        return rules

    def with_file_of(self, folder: Path) -> IgnoreRules:
        """Add the patterns of the .gitignore in a folder, if there is one that can be read."""
        file = folder / _FILE
        try:
            if not file.is_file() or file.stat().st_size > _MAX_BYTES:
                return self
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return self
        return self.with_lines(lines, folder, origin=_FILE)

    def with_lines(self, lines: Sequence[str], folder: Path, *, origin: str = "") -> IgnoreRules:
        """Add patterns that are relative to a folder.

        Args:
            lines: Lines of a .gitignore file.
            folder: The folder.
            origin: What a message calls the patterns; "" for each pattern itself.
        """
        parsed = (_parse(line, folder, origin) for line in lines)
        return IgnoreRules((*self.patterns, *(pattern for pattern in parsed if pattern is not None)))

    def match(self, path: Path, *, is_folder: bool) -> str | None:
        """Return the origin of the pattern that ignores a path; None if it is not ignored."""
        for pattern in reversed(self.patterns):
            if pattern.folders_only and not is_folder:
                continue
            if path.is_relative_to(pattern.folder) and _matches(
                pattern.segments, path.relative_to(pattern.folder).parts
            ):
                return None if pattern.negated else pattern.origin
        return None


def _parse(line: str, folder: Path, origin: str) -> _Pattern | None:
    """Read one line; None for a blank line or a comment."""
    text = line if line.endswith("\\ ") else line.rstrip()
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[1:] if negated else text
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    # Shell patterns escape a character by brackets, not by a backslash.
    segments = [_ESCAPED.sub(_unescaped, segment) for segment in text.strip("/").split("/")]
    if not anchored:
        segments = [_ANY_FOLDERS, *segments]
    if segments[-1] == _ANY_FOLDERS:  # everything inside, not the folder itself
        segments.append("*")
    return _Pattern(tuple(segments), negated, folders_only, folder, origin or repr(line))


def _unescaped(match: re.Match[str]) -> str:
    character = match[1]
    return f"[{character}]" if character in "*?[" else character


def _matches(segments: Sequence[str], parts: Sequence[str]) -> bool:
    """Match the parts of a path, in a time that grows with the product of both lengths."""
    reached = _with_skipped(segments, {0})
    for part in parts:
        following = set()
        for place in reached:
            if place < len(segments) and segments[place] == _ANY_FOLDERS:
                following.add(place)
            elif place < len(segments) and fnmatchcase(part, segments[place]):
                following.add(place + 1)
        reached = _with_skipped(segments, following)
    return len(segments) in reached


def _with_skipped(segments: Sequence[str], places: set[int]) -> set[int]:
    """Add the places that are reached if "**" matches no folder."""
    reached = set(places)
    for place in range(len(segments)):
        if place in reached and segments[place] == _ANY_FOLDERS:
            reached.add(place + 1)
    return reached
