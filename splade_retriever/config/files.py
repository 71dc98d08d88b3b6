"""Reading a configuration file: YAML, TOML or JSON -> values, and the line of each name."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from splade_retriever.errors import InputError
from splade_retriever.validation import MAX_DEPTH, type_name

__all__ = ["ConfigFile", "KeyPath", "read_config_file", "to_yaml"]

KeyPath: TypeAlias = tuple[str, ...]
"""The names that lead to a value, from the outermost."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a configuration file."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    """The line of each name, from 1; names inside TOML's inline tables and arrays are missing."""

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a name, or of the closest name around it; None where no line is known."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def read_config_file(path: str | Path) -> ConfigFile:
    """Read a file that ends in .yaml, .yml, .toml or .json.

    Raises:
        InputError: If the file cannot be read, is not valid in its format, or does not hold names and values.
    """
    file = Path(path)
    file_format = _FORMATS.get(file.suffix.lower())
    if file_format is None:
        raise InputError(
            f"The configuration {str(file)!r} ends in {file.suffix!r}, expected one of "
            f"{', '.join(_FORMATS)}. Rename it, or pass its content to from_dict."
        )
    try:
        text = _read_bounded(file)
        values = file_format.parse(text)
    except OSError as error:
        raise InputError(
            f"The configuration {str(file)!r} cannot be read ({error.strerror}). Check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"The configuration {str(file)!r} is not a valid {file.suffix[1:].upper()} file ({reason}). "
            "Fix the file."
        ) from None
    if not isinstance(values, Mapping):
        raise InputError(
            f"The configuration {str(file)!r} holds {type_name(values)}, expected names and values."
        )
    named = {str(name): value for name, value in values.items() if name != "$schema"}
    return ConfigFile(file, named, dict(file_format.lines(text)))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Write values as YAML, in their order."""
    import yaml

    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text


def _read_bounded(file: Path) -> str:
    """Read a file of a reasonable size.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is too large, or not UTF-8.
    """
    if file.exists() and not file.is_file():
        raise OSError(0, "it is not a regular file")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    return file.read_text(encoding="utf-8")


# -- YAML ----------------------------------------------------------------------------------------------------


def _parse_yaml(text: str) -> Any:
    """Parse YAML without aliases, a few of which can expand to terabytes.

    Raises:
        ValueError: With the reason and the line, and without the content of the line.
        RecursionError: The values are nested too deeply; the time to parse them would grow with the square of
            the depth.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has an alias, and aliases (*name) are not supported")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" at line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(type(error).__name__) from None


def _yaml_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    import yaml

    def walk(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*path, str(key.value))
                yield inner, key.start_mark.line + 1
                yield from walk(value, inner)

    yield from walk(yaml.compose(text, Loader=yaml.SafeLoader), ())


# -- TOML ----------------------------------------------------------------------------------------------------


def _parse_toml(text: str) -> Any:
    """Parse TOML.

    Raises:
        RecursionError: A key has too many parts; the memory to parse it would grow with the square of their
            number.
    """
    if any(line.split("=", 1)[0].count(".") > MAX_DEPTH for line in text.splitlines()):
        raise RecursionError
    return tomllib.loads(text)


def _toml_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]", line):
            table = _toml_key(header[1])
            yield table, number
        elif key := re.match(r"""\s*((?:[\w.\-$]|"[^"]*"|'[^']*')+)\s*=""", line):
            yield (*table, *_toml_key(key[1])), number


def _toml_key(written: str) -> KeyPath:
    return tuple(part.strip("\"' ") for part in re.findall(r""""[^"]*"|'[^']*'|[^.\s"']+""", written))


# -- JSON ----------------------------------------------------------------------------------------------------


def _json_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    path: list[str] = []
    line, name = 1, ""
    for token in re.finditer(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\n]', text):
        if token[0] == "\n":
            line += 1
        elif token[0] == "{":
            path.append(name)
        elif token[0] == "}":
            path.pop()
        elif token[2]:
            name = json.loads(f'"{token[1]}"')
            yield (*path[1:], name), line
            line += token[2].count("\n")


class _Format(NamedTuple):
    parse: Callable[[str], Any]
    lines: Callable[[str], Iterator[tuple[KeyPath, int]]]


_MAX_BYTES: Final = 2**20
_FORMATS: Final[Mapping[str, _Format]] = {
    ".yaml": _Format(_parse_yaml, _yaml_lines),
    ".yml": _Format(_parse_yaml, _yaml_lines),
    ".toml": _Format(_parse_toml, _toml_lines),
    ".json": _Format(json.loads, _json_lines),
}
