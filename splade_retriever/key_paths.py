"""Keys of metadata, and the paths by which engines find their values.

A key of a filter names levels of the metadata, separated by dots. A level in double quotes is a JSON string:

    author.name         {"author": {"name": ...}}
    "a.b".c             {"a.b": {"c": ...}}
    authors[].name      {"authors": [{"name": ...}, ...]}
    say "hi"            {'say "hi"': ...}, as does the JSON string "say \\"hi\\""

A path of Qdrant cannot name a key with a double quote or a backslash: its grammar has no escape for them. So
documents with such keys keep a second copy of their values, under keys in which these characters are
replaced (`escaped_metadata`), and filters look there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from splade_retriever.errors import FilterError
from splade_retriever.validation import text_fault, type_name

__all__ = ["MetadataPath", "escaped_metadata", "key_levels", "quoted"]

_NOT_IN_PATHS: Final = re.compile(r'["\\]')
_ESCAPED: Final = {"%": "%25", '"': "%22", "\\": "%5C"}
_QUOTED_LEVEL: Final = re.compile(r'("(?:[^"\\]|\\.)*")((?:\[\d*\])?)(?=\.|$)', re.DOTALL)
_OTHER_LEVEL: Final = re.compile(r"[^.]+")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_LEVEL: Final = re.compile(r"([A-Za-z0-9_-]+)((?:\[\d*\])?)")


class _Level(NamedTuple):
    name: str
    elements: str
    """`[]` for all elements of a list, `[2]` for one, else empty."""


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """The path of a value in the metadata, from a payload's top level."""

    metadata_key: str | None
    """The payload key of the metadata; None for metadata at the payload's top level."""
    escaped_path: str | None
    """The path of `escaped_metadata` in the payload; None where documents have no such copy."""
    levels: tuple[_Level, ...] = ()

    def inner(self, key: object) -> "MetadataPath":
        """Return the path of a key inside this one.

        Raises:
            FilterError: The key is not valid.
        """
        return replace(self, levels=(*self.levels, *_levels(key)))

    @property
    def text(self) -> str:
        """The path as engines read it.

        Raises:
            FilterError: No path names it.
        """
        names = [level.name for level in self.levels]
        root = [] if self.metadata_key is None else [quoted(self.metadata_key)]
        if any(map(_NOT_IN_PATHS.search, names)):
            if self.escaped_path is None:
                raise FilterError(
                    f"Filter key {'.'.join(names)!r} has a double quote or a backslash, which Qdrant's paths "
                    "cannot name. Only collections that this package created can be filtered by it. Store "
                    "the value under another key, or copy the documents into a new collection."
                )
            root, names = [self.escaped_path], [_escaped(name) for name in names]
        parts = [f"{quoted(name)}{level.elements}" for name, level in zip(names, self.levels, strict=True)]
        return ".".join([*root, *parts])


def key_levels(key: str) -> list[str]:
    """Return the names of the levels of a key."""
    return [level.name for level in _levels(key)]


def quoted(name: str) -> str:
    """Return the name of one level as a path has it: in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else f'"{name}"'


def escaped_metadata(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parts of metadata that no path names, under keys without quotes and backslashes.

    In these keys `"` is `%22`, a backslash `%5C` and `%` itself `%25`, at each level of the path to such a
    value. Elements of lists keep their places.

    Returns:
        The copy; None for metadata whose keys all have a path.
    """
    copy = _unnamed(metadata)
    return copy if isinstance(copy, dict) else None


def _unnamed(value: object) -> dict[str, Any] | list[Any] | None:
    """Return the copy of what is below keys that no path names; None where there are none."""
    if isinstance(value, Mapping):
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if _NOT_IN_PATHS.search(key):
                copy[_escaped(key)] = _all_escaped(item)
            elif (part := _unnamed(item)) is not None:
                copy[_escaped(key)] = part
        return copy or None
    if isinstance(value, list):
        elements = [_unnamed(item) for item in value]
        return elements if any(element is not None for element in elements) else None
    return None


def _all_escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_escaped(key): _all_escaped(item) for key, item in value.items()}
    return [_all_escaped(item) for item in value] if isinstance(value, list) else value


def _escaped(name: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in name)


def _levels(key: object) -> tuple[_Level, ...]:
    if not isinstance(key, str):
        raise FilterError(f"Filter key {key!r} is {type_name(key)}, expected a string.")
    if fault := text_fault(f"The filter key {key!r}", key):
        raise FilterError(f"{fault}.")
    levels: list[_Level] = []
    position = 0
    while True:
        found = (_QUOTED_LEVEL if key[position : position + 1] == '"' else _OTHER_LEVEL).match(key, position)
        if found is None:
            raise _not_a_path(key)
        levels.append(_level(key, found))
        if found.end() == len(key):
            return tuple(levels)
        position = found.end() + 1  # behind the dot


def _level(key: str, found: re.Match[str]) -> _Level:
    if found.re is _QUOTED_LEVEL:
        try:
            level = _Level(json.loads(found[1], strict=False), found[2])
        except ValueError:
            raise _not_a_path(key) from None
        if not level.name or text_fault("name", level.name):
            raise _not_a_path(key)
        return level
    bare = _BARE_LEVEL.fullmatch(found[0])
    return _Level(found[0], "") if bare is None else _Level(bare[1], bare[2])


def _not_a_path(key: str) -> FilterError:
    return FilterError(
        f"Filter key {key!r} is not a path. Separate parts with single dots. Write a part that has a dot "
        f"or starts with a double quote as a JSON string, as json.dumps returns it: {json.dumps(key)}."
    )
